"""The configuration of a checkpoint, inferred from the shapes of its tensors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .attention import table_rows
from .config import DVAE, PoolOf
from .errors import CheckpointError, CheckpointMismatch
from .published import Preset, find_preset
from .weights import Weights, check_essential, read_weights

# Fraction of the depth after which the published segmentation models take their four features.
FEATURE_DEPTHS = (1 / 3, 1 / 2, 2 / 3, 1)
TRUNK_NORM = "beit.layernorm.weight"
# Dimensions of the tensors whose shapes are read here.
DIMENSIONS = (
    (r"beit\.embeddings\.cls_token", 3),
    (r"beit\.embeddings\.patch_embeddings\.projection\.weight", 4),
    (r"beit\..*relative_position_bias_table", 2),
    (r"beit\..*\.intermediate\.dense\.weight", 2),
    (r"(lm_head|classifier)\.weight", 2),
    (r"(decode_head|auxiliary_head)\.classifier\.weight", 4),
    (r"(encoder|decoder)\.blocks\.(input|output\.conv)\.weight", 4),  # of a dVAE
)


def config_of_file(source: Path) -> dict[str, Any]:
    """What a `config.json` beside this weights file would say. Raises CheckpointError."""
    return infer_config(read_weights(source), source, find_preset(source))


def infer_config(
    weights: Weights, source: Path, preset: Preset | None = None, pool_of: PoolOf | None = None
) -> dict[str, Any]:
    """A Hugging Face `config.json` for tensors under published names, from their shapes.

    Assumes square pictures. What shapes leave open comes from `preset`, if it is as wide, and from `pool_of`. Raises
    CheckpointError naming the flag where neither decides, and for tensors that no sizes can be read off.
    """
    tensors = weights.tensors
    if weights.origin != "dvae":
        check_essential(weights, source)
    _check_dimensions(weights, source)
    if weights.origin == "dvae":
        return _dvae_config(tensors, source)
    width = tensors["beit.embeddings.cls_token"].shape[-1]
    depth = _count(tensors, r"beit\.encoder\.layer\.(\d+)\.")
    tables = [tensor for name, tensor in tensors.items() if name.endswith("relative_position_bias_table")]
    patch = tensors["beit.embeddings.patch_embeddings.projection.weight"].shape
    config = {
        "model_type": "beit",
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": tables[0].shape[-1] if tables else _heads(width, source, preset),
        "intermediate_size": next(len(t) for name, t in tensors.items() if name.endswith("intermediate.dense.weight")),
        "image_size": _side(tensors, tables, source) * patch[-1],
        "patch_size": patch[-1],
        "num_channels": patch[1],
        "use_mask_token": "beit.embeddings.mask_token" in tensors,
        "use_absolute_position_embeddings": "beit.embeddings.position_embeddings" in tensors,
        "use_relative_position_bias": any("attention.attention.relative" in name for name in tensors),
        "use_shared_relative_position_bias": any("encoder.relative_position_bias" in name for name in tensors),
        "layer_scale_init_value": 0.1 if any(name.endswith("lambda_1") for name in tensors) else 0,
        "use_mean_pooling": TRUNK_NORM not in tensors,
    }
    head = _head_config(tensors, depth)
    if head["architectures"] in (["BeitModel"], ["BeitForImageClassification"]):
        _check_pooling(weights, source, pool_of)
    return config | head


def _check_dimensions(weights: Weights, source: Path) -> None:
    for name, tensor in weights.tensors.items():
        needed = next((count for pattern, count in DIMENSIONS if re.fullmatch(pattern, name)), tensor.ndim)
        if tensor.ndim != needed:
            fault = f"is {tuple(tensor.shape)}, where a shape of {needed} numbers should be"
            raise CheckpointMismatch(f"{source}: {weights.in_file(name)} {fault}: fetch or save it again")


def _check_pooling(weights: Weights, source: Path, pool_of: PoolOf | None) -> None:
    """In transformers' files a last norm means that the cls token is pooled; elsewhere it may be the mean as well."""
    if TRUNK_NORM in weights.tensors and weights.origin == "unilm" and pool_of is None:
        norm = weights.in_file(TRUNK_NORM)
        raise CheckpointError(
            f"{source} has {norm}, after which either the cls token or the mean of the patches is pooled: choose with "
            "--pool-of cls or --pool-of mean, or give --model-config"
        )


def _heads(width: int, source: Path, preset: Preset | None) -> int:
    if preset and preset.width == width:
        return preset.heads
    raise CheckpointError(
        f"{source} has no table of position bias, so its number of attention heads is unknown: give --model-config, "
        "or --preset naming a published checkpoint of its size"
    )


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    return len({found[1] for name in tensors if (found := re.match(pattern, name))})


def _side(tensors: Mapping[str, Tensor], tables: list[Tensor], source: Path) -> int:
    """Patches along a side of the trained picture."""
    positions = tensors.get("beit.embeddings.position_embeddings")
    for side in range(1, 129):  # three times the largest that is published
        if tables and len(tables[0]) == table_rows((side, side)):
            return side
        if not tables and positions is not None and positions.shape[1:2] == (side * side + 1,):
            return side
    raise CheckpointError(f"{source}: the trained picture size cannot be read off the tensors: give --model-config")


def _head_config(tensors: Mapping[str, Tensor], depth: int) -> dict[str, Any]:
    if "lm_head.weight" in tensors:
        return {"architectures": ["BeitForMaskedImageModeling"], "vocab_size": len(tensors["lm_head.weight"])}
    if "classifier.weight" in tensors:
        return {"architectures": ["BeitForImageClassification"], "num_labels": len(tensors["classifier.weight"])}
    if "decode_head.classifier.weight" not in tensors:
        return {"architectures": ["BeitModel"]}
    auxiliary = tensors.get("auxiliary_head.classifier.weight")
    return {
        "architectures": ["BeitForSemanticSegmentation"],
        "num_labels": len(tensors["decode_head.classifier.weight"]),
        "out_indices": [round(depth * fraction) - 1 for fraction in FEATURE_DEPTHS],
        "use_auxiliary_head": auxiliary is not None,
        "auxiliary_channels": 256 if auxiliary is None else auxiliary.shape[1],
    }


def _dvae_config(tensors: Mapping[str, Tensor], source: Path) -> dict[str, Any]:
    for needed in ("encoder.blocks.input.weight", "encoder.blocks.output.conv.weight"):
        if needed not in tensors:
            advice = "convert a folder with encoder.pkl and decoder.pkl"
            raise CheckpointError(f"{source}: the tokenizer's encoder is missing, at least its {needed}: {advice}")
    return {
        "model_type": DVAE,
        "hidden_size": len(tensors["encoder.blocks.input.weight"]),
        "num_hidden_layers": _count(tensors, r"encoder\.blocks\.group_1\.block_(\d+)\."),
        "intermediate_size": len(tensors.get("decoder.blocks.input.weight", ())),
        "vocab_size": len(tensors["encoder.blocks.output.conv.weight"]),
        "image_size": 112,
        "patch_size": 8,
    }
