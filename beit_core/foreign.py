"""Weights under other names: unilm, timm, flax and DALL-E files -> the names of Hugging Face's published files."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .attention import table_rows
from .config import DVAE, PREFIXES, CheckpointError
from .files import find_weights
from .formats import read_tensors

TABLE = "relative_position_bias.relative_position_bias_table"
# Not part of the encoder and its head: BEiT v2's pretraining, the key's bias (timm keeps it, as zeros), index buffers.
DROPPED = re.compile(r"cls_pt_layers\.|.*\.k_bias$|.*relative_position_index$")
UNILM_NAMES = (  # unilm's and timm's names -> published names
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
# What every BEiT has, and its sizes are read off.
ESSENTIAL = ("cls_token", "patch_embeddings.projection.weight", "layer.0.intermediate.dense.weight")
WRAPPERS = r"^(module\.)?(backbone\.)?"  # of distributed training and of mmsegmentation
TOKENIZER = ("encoder.blocks.", "decoder.blocks.")


def published_tensors(source: Path) -> dict[str, Tensor]:
    """All tensors of a weights file or model folder of any known origin, by published names.

    Raises CheckpointError for files that are not weights, hold more than tensors, or are of no known origin.
    """
    tensors: dict[str, Tensor] = {}
    for path in find_weights(source):
        part = read_tensors(path)
        tensors |= {_of_tokenizer(re.sub(WRAPPERS, "", name), part): tensor for name, tensor in part.items()}
    if any(name.startswith(TOKENIZER) for name in tensors):
        return tensors
    if any(name.endswith("patch_embed.proj.weight") for name in tensors):
        tensors = from_unilm(tensors)
    # transformers saves an encoder without a head under names without a prefix.
    prefix = next((p for p in PREFIXES.values() if any(name.startswith(p) for name in tensors)), "")
    named = {name.replace(prefix, "beit.", 1) if name.startswith(prefix) else name: t for name, t in tensors.items()}
    if source.is_file() and not all(any(name.endswith(needed) for name in named) for needed in ESSENTIAL):
        first = ", ".join([*tensors][:3])
        raise CheckpointError(f"{source} holds no BEiT that is known here; its first tensors are {first}")
    return named


def from_unilm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """unilm's or timm's names -> published names; the fused projection is cut into query, key and value."""
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if DROPPED.match(name):
            continue
        for pattern, replacement in UNILM_NAMES:
            name = re.sub(f"^{pattern}", replacement, name)
        parts = tensor.chunk(3) if "{}" in name else (tensor,)
        found |= {name.format(part): value for part, value in zip(("query", "key", "value"), parts, strict=False)}
    # Where the classifier reads the cls token the last norm is the encoder's, before `lm_head` it is the head's own.
    prefix = "" if "lm_head.weight" in found else "beit."
    return {re.sub(r"^norm\.", f"{prefix}layernorm.", name): tensor for name, tensor in found.items()}


def _of_tokenizer(name: str, half: Mapping[str, Tensor]) -> str:
    """A name in DALL-E's files -> ours; the encoder's input convolution is the one that is not 1 x 1."""
    first = half.get("blocks.input.w", half.get("blocks.input.weight"))
    if first is None:
        return name
    name = re.sub(r"\.b$", ".bias", re.sub(r"\.w$", ".weight", name))
    return f"{'decoder' if first.shape[-1] == 1 else 'encoder'}.{name}"


def config_of_file(source: Path) -> dict[str, Any]:
    """What a `config.json` beside this weights file would say. Raises CheckpointError."""
    return infer_config(published_tensors(source))


def infer_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """A Hugging Face `config.json` for tensors under published names, from their shapes alone.

    Assumes square pictures, and heads of 64 channels where there is no bias table. Raises CheckpointError when even
    that leaves the size open.
    """
    if any(name.startswith(TOKENIZER) for name in tensors):
        return _dvae_config(tensors)
    width = tensors["beit.embeddings.cls_token"].shape[-1]
    depth = _count(tensors, r"beit\.encoder\.layer\.(\d+)\.")
    tables = [tensor for name, tensor in tensors.items() if name.endswith("relative_position_bias_table")]
    patch = tensors["beit.embeddings.patch_embeddings.projection.weight"].shape
    config = {
        "model_type": "beit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": tables[0].shape[1] if tables else max(1, width // 64),
        "intermediate_size": tensors["beit.encoder.layer.0.intermediate.dense.weight"].shape[0],
        "image_size": _side(tensors, tables) * patch[-1],
        "patch_size": patch[-1],
        "num_channels": patch[1],
        "use_mask_token": "beit.embeddings.mask_token" in tensors,
        "use_absolute_position_embeddings": "beit.embeddings.position_embeddings" in tensors,
        "use_relative_position_bias": any("attention.attention.relative" in name for name in tensors),
        "use_shared_relative_position_bias": any("encoder.relative_position_bias" in name for name in tensors),
        "layer_scale_init_value": 0.1 if "beit.encoder.layer.0.lambda_1" in tensors else 0,
        "use_mean_pooling": "beit.layernorm.weight" not in tensors,
    }
    return config | _head_config(tensors, depth)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _side(tensors: Mapping[str, Tensor], tables: list[Tensor]) -> int:
    """Patches along a side of the trained picture."""
    positions = tensors.get("beit.embeddings.position_embeddings")
    for side in range(1, 129):  # three times as many as anybody has published
        if tables and len(tables[0]) == table_rows((side, side)):
            return side
        if not tables and positions is not None and positions.shape[1] == side * side + 1:
            return side
    raise CheckpointError("the trained picture size cannot be read off the tensors: give --model-config")


def _head_config(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    if "lm_head.weight" in tensors:
        return {"architectures": ["BeitForMaskedImageModeling"], "vocab_size": len(tensors["lm_head.weight"])}
    if "classifier.weight" in tensors:
        return {"architectures": ["BeitForImageClassification"], "num_labels": len(tensors["classifier.weight"])}
    if "decode_head.classifier.weight" not in tensors:
        return {"architectures": ["BeitModel" if "beit.pooler.layernorm.weight" in tensors else "BeitBackbone"]}
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
    return {
        "model_type": DVAE,
        "hidden_size": len(tensors["encoder.blocks.input.weight"]),
        "num_hidden_layers": _count(tensors, r"encoder\.blocks\.group_1\.block_(\d+)\."),
        "intermediate_size": len(tensors.get("decoder.blocks.input.weight", ())),
        "vocab_size": len(tensors["encoder.blocks.output.conv.weight"]),
        "image_size": 112,
        "patch_size": 8,
    }
