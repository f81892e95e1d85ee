"""Weights under other names: unilm, timm, flax and DALL-E files -> the names of Hugging Face's published files."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .config import PREFIXES, CheckpointError
from .files import find_weights
from .flax import unpack
from .weights import TABLE, read_tensors

# unilm's and timm's names -> published names; None drops what is not part of the encoder and its head.
UNILM_NAMES: tuple[tuple[str, str | None], ...] = (
    (r"backbone\.", ""),
    (r"cls_pt_layers\..*", None),  # BEiT v2 pretraining only
    (r"(?:.*\.)?relative_position_index", None),
    (r".*\.k_bias", None),  # timm keeps the key's bias as zeros
    (r"(cls_token|mask_token)", r"beit.embeddings.\1"),
    (r"pos_embed", "beit.embeddings.position_embeddings"),
    (r"patch_embed\.proj\.", "beit.embeddings.patch_embeddings.projection."),
    (r"rel_pos_bias\.", "beit.encoder.relative_position_bias."),
    (r"blocks\.(\d+)\.", r"beit.encoder.layer.\1."),
    (r"(beit.*\.)norm1\.", r"\1layernorm_before."),
    (r"(beit.*\.)norm2\.", r"\1layernorm_after."),
    (r"(beit.*\.)gamma_([12])", r"\1lambda_\2"),
    (r"(beit.*\.)attn\.qkv\.weight", r"\1attention.attention.{}.weight"),
    (r"(beit.*\.)attn\.q_bias", r"\1attention.attention.query.bias"),
    (r"(beit.*\.)attn\.v_bias", r"\1attention.attention.value.bias"),
    (r"(beit.*\.)attn\.relative_position_bias_table", rf"\1attention.attention.{TABLE}"),
    (r"(beit.*\.)attn\.proj\.", r"\1attention.output.dense."),
    (r"(beit.*\.)mlp\.fc1\.", r"\1intermediate.dense."),
    (r"(beit.*\.)mlp\.fc2\.", r"\1output.dense."),
    (r"fc_norm\.", "beit.pooler.layernorm."),
    (r"head\.", "classifier."),
    (r"(decode_head|auxiliary_head)\.conv_seg\.", r"\1.classifier."),
)
# Fraction of the depth after which the published segmentation models take their four features.
FEATURE_DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1)


def read_foreign(path: Path) -> dict[str, Tensor]:
    """Tensors of a weights file of any known origin, under published names.

    Raises CheckpointError for files that are not weights, hold more than tensors, or are of no known origin.
    """
    if path.suffix == ".msgpack":
        return dict(from_flax(unpack(path.read_bytes())))
    tensors = {name.removeprefix("module."): tensor for name, tensor in read_tensors(path).items()}
    if "blocks.input.w" in tensors or "blocks.input.weight" in tensors:
        return dict(_from_dalle(tensors))
    if any(name.endswith("patch_embed.proj.weight") for name in tensors):
        return from_unilm(tensors)
    if any(name.endswith("patch_embeddings.projection.weight") for name in tensors):
        return tensors
    raise CheckpointError(f"{path} holds no BEiT that is known here; its first tensors are {', '.join([*tensors][:3])}")


def from_unilm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """unilm's or timm's names -> published names; the fused projection is cut into query, key and value."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        renamed = _rename(name)
        if renamed is None:
            continue
        parts = tensor.chunk(3) if "{}" in renamed else (tensor,)
        for part, value in zip(("query", "key", "value"), parts, strict=False):
            found[renamed.format(part)] = value
    # Where the classifier reads the cls token the last norm is the encoder's, before `lm_head` it is the head's own.
    prefix = "" if "lm_head.weight" in found else "beit."
    return {re.sub(r"^norm\.", f"{prefix}layernorm.", name): tensor for name, tensor in found.items()}


def _rename(name: str) -> str | None:
    for pattern, replacement in UNILM_NAMES:
        if replacement is None:
            if re.fullmatch(pattern, name):
                return None
        else:
            name = re.sub(f"^{pattern}", replacement, name)
    return name


def from_flax(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    """Published names and layouts of a flax tree: kernels are transposed, scales are weights."""
    if not isinstance(tree, Mapping):
        *parents, leaf = path
        if leaf == "kernel":
            tree = tree.permute(3, 2, 0, 1) if tree.ndim == 4 else tree.T
        yield ".".join([*parents, {"kernel": "weight", "scale": "weight"}.get(leaf, leaf)]), tree.contiguous()
        return
    for name, branch in tree.items():
        yield from from_flax(branch, (*path, *([] if not path and name == "params" else [name])))


def _from_dalle(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names of the tokenizer's halves; the encoder is the one whose input convolution is not 1 x 1."""
    first = next(tensors[name] for name in ("blocks.input.w", "blocks.input.weight") if name in tensors)
    half = "decoder" if first.shape[-1] == 1 else "encoder"
    for name, tensor in tensors.items():
        yield f"{half}." + re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", name)), tensor


def infer_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A Hugging Face `config.json` for tensors under published names, from their shapes alone.

    Assumes square pictures, and heads of 64 channels where there is no bias table. Raises CheckpointError when even
    that leaves the size open.
    """
    if "encoder.blocks.input.weight" in tensors or "decoder.blocks.input.weight" in tensors:
        return _dvae_config(tensors)
    embeddings = "beit.embeddings."
    width = tensors[f"{embeddings}cls_token"].shape[-1]
    layers = {int(found[1]) for name in tensors if (found := re.match(r"beit\.encoder\.layer\.(\d+)\.", name))}
    tables = [tensor for name, tensor in tensors.items() if name.endswith("relative_position_bias_table")]
    patch = tensors[f"{embeddings}patch_embeddings.projection.weight"].shape
    config = {
        "model_type": "beit",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": tables[0].shape[1] if tables else max(1, width // 64),
        "intermediate_size": tensors["beit.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "image_size": _side(tensors, tables) * patch[-1],
        "patch_size": patch[-1],
        "num_channels": patch[1],
        "use_mask_token": f"{embeddings}mask_token" in tensors,
        "use_absolute_position_embeddings": f"{embeddings}position_embeddings" in tensors,
        "use_relative_position_bias": any("attention.attention.relative" in name for name in tensors),
        "use_shared_relative_position_bias": any("encoder.relative_position_bias" in name for name in tensors),
        "layer_scale_init_value": 0.1 if "beit.encoder.layer.0.lambda_1" in tensors else 0,
        "use_mean_pooling": "beit.layernorm.weight" not in tensors,
    }
    return config | _head_config(tensors, len(layers))


def _side(tensors: Mapping[str, Tensor], tables: list[Tensor]) -> int:
    if tables:
        side = (math.isqrt(len(tables[0]) - 3) + 1) // 2
        fits = (2 * side - 1) ** 2 + 3 == len(tables[0])
    else:
        positions = tensors.get("beit.embeddings.position_embeddings")
        count = 0 if positions is None else positions.shape[1] - 1
        side = math.isqrt(count)
        fits = side > 0 and side * side == count
    if not fits:
        raise CheckpointError("the trained picture size cannot be read off the tensors: give --model-config")
    return side


def _head_config(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    if "lm_head.weight" in tensors:
        return {"architectures": ["BeitForMaskedImageModeling"], "vocab_size": len(tensors["lm_head.weight"])}
    if "classifier.weight" in tensors:
        return {"architectures": ["BeitForImageClassification"], "num_labels": len(tensors["classifier.weight"])}
    if "decode_head.classifier.weight" not in tensors:
        bare = "BeitModel" if "beit.pooler.layernorm.weight" in tensors else "BeitBackbone"
        return {"architectures": [bare]}
    auxiliary = tensors.get("auxiliary_head.classifier.weight")
    return {
        "architectures": ["BeitForSemanticSegmentation"],
        "num_labels": len(tensors["decode_head.classifier.weight"]),
        "out_indices": [round(depth * fraction) - 1 for fraction in FEATURE_DEPTHS],
        "use_auxiliary_head": auxiliary is not None,
        "auxiliary_channels": 256 if auxiliary is None else auxiliary.shape[1],
    }


def _dvae_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    if "encoder.blocks.input.weight" not in tensors:
        raise CheckpointError("the tokenizer's encoder is missing: convert a folder with encoder.pkl and decoder.pkl")
    decoder = tensors.get("decoder.blocks.input.weight")
    return {
        "model_type": "dall-e-dvae",
        "n_hid": len(tensors["encoder.blocks.input.weight"]),
        "n_init": 128 if decoder is None else len(decoder),
        "n_blk_per_group": sum(
            bool(re.fullmatch(r"encoder\.blocks\.group_1\.block_\d+\.res_path\.conv_1\.weight", name))
            for name in tensors
        ),
        "vocab_size": len(tensors["encoder.blocks.output.conv.weight"]),
        "decoder": decoder is not None,
        "image_size": 112,
    }


def published_tensors(source: Path) -> dict[str, Tensor]:
    """All tensors of a model by the names that `weights.DISK_NAMES` speaks of."""
    if source.is_file():
        return with_prefix(read_foreign(source))
    tensors: dict[str, Tensor] = {}
    for part in find_weights(source):
        tensors.update(read_tensors(part))
    return with_prefix(tensors)


def with_prefix(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names that start the encoder's with `beit.`, whatever the family calls it and if a bare one calls it nothing."""
    if any(name.startswith(("encoder.blocks.", "decoder.blocks.")) for name in tensors):
        return dict(tensors)  # a tokenizer
    for prefix in PREFIXES.values():
        if any(name.startswith(prefix) for name in tensors):
            return {name.replace(prefix, "beit.", 1): tensor for name, tensor in tensors.items()}
    return {f"beit.{name}": tensor for name, tensor in tensors.items()}
