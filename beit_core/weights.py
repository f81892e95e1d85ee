"""Tensors from files, and into modules. Nothing here unpickles what could run code.

The names in files are those of Hugging Face's published BEiT files ("disk names"); DISK_NAMES leads from our module
names to them. D width.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .config import CheckpointError, CheckpointMismatch
from .unpickle import module_tensors, read_pickle

BLOCK = r"trunk\.blocks\.(\d+)\."
LAYER = r"beit.encoder.layer.\1."
TABLE = "relative_position_bias.relative_position_bias_table"
DISK_NAMES = (
    (r"trunk\.patches\.", "beit.embeddings.patch_embeddings.projection."),
    (r"trunk\.cls_token", "beit.embeddings.cls_token"),
    (r"trunk\.mask_token", "beit.embeddings.mask_token"),
    (r"trunk\.positions\.table", "beit.embeddings.position_embeddings"),
    (r"trunk\.bias\.shared", f"beit.encoder.{TABLE}"),
    (r"trunk\.bias\.tables\.(\d+)", rf"{LAYER}attention.attention.{TABLE}"),
    (rf"{BLOCK}norm1\.", rf"{LAYER}layernorm_before."),
    (rf"{BLOCK}norm2\.", rf"{LAYER}layernorm_after."),
    (rf"{BLOCK}scale([12])", rf"{LAYER}lambda_\2"),
    (rf"{BLOCK}attention\.qkv\.", rf"{LAYER}attention.attention.{{}}."),
    (rf"{BLOCK}attention\.out\.", rf"{LAYER}attention.output.dense."),
    (rf"{BLOCK}mlp\.0\.", rf"{LAYER}intermediate.dense."),
    (rf"{BLOCK}mlp\.2\.", rf"{LAYER}output.dense."),
    (r"trunk\.norm\.", "beit.layernorm."),
    (r"pooler\.norm\.", "beit.pooler.layernorm."),
    (r"norm\.", "layernorm."),
)
# Buffers that follow from the sizes, or that only training reads.
IGNORED = re.compile(r"relative_position_index$|num_batches_tracked$")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.safetensors` file or of a pickle. Raises CheckpointError, never runs code."""
    if path.suffix != ".safetensors":
        return module_tensors(read_pickle(path))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def fill(build: Callable[[], nn.Module], tensors: Mapping[str, Tensor], source: str) -> nn.Module:
    """Build a module and give it these tensors (disk names) as float32, frozen, in evaluation mode.

    Raises CheckpointMismatch naming every missing, unexpected and wrongly shaped tensor.
    """
    with torch.device("meta"):
        module = build()
    ours = module.state_dict()
    check(ours, tensors, source)
    state = {name: _assemble(name, tensors) for name in ours}
    module.load_state_dict(state, strict=True, assign=True)
    return module.requires_grad_(False).eval()


def check(ours: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str) -> None:
    """Compare names and shapes. Raises CheckpointMismatch."""
    expected = {name: shape for own, tensor in ours.items() for name, shape in disk_entries(own, tensor)}
    missing = [name for name in expected if name not in tensors and not IGNORED.search(name)]
    unexpected = [name for name in tensors if name not in expected and not IGNORED.search(name)]
    both = [(name, tuple(tensors[name].shape), shape) for name, shape in expected.items() if name in tensors]
    misshapen = [f"{name} is {found}, not {shape}" for name, found, shape in both if found != shape]
    found = {"missing": missing, "unexpected": unexpected, "wrongly shaped": misshapen}
    if any(found.values()):
        told = "; ".join(f"{len(names)} {what}: {', '.join(names)}" for what, names in found.items() if names)
        raise CheckpointMismatch(f"{source} does not fit its configuration. {told}")


def disk_entries(name: str, tensor: Tensor) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Disk names and shapes of what one of our tensors is made of: itself, or the three projections of `qkv`."""
    disk, shape = disk_name(name), tuple(tensor.shape)
    if "{}" not in disk:
        yield disk, shape
        return
    for part in ("query", "key", "value") if disk.endswith("weight") else ("query", "value"):
        yield disk.format(part), (shape[0] // 3, *shape[1:])


def disk_name(name: str) -> str:
    """Our name of a tensor -> its name in published files, `{}` standing for query, key and value."""
    for ours, disk in DISK_NAMES:
        if re.match(ours, name):
            return re.sub(f"^{ours}", disk, name)
    return name


def _assemble(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    disk = disk_name(name)
    if name.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if "{}" not in disk:
        return tensors[disk].float()
    query, value = tensors[disk.format("query")], tensors[disk.format("value")]
    key = tensors[disk.format("key")] if disk.endswith("weight") else torch.zeros_like(query)
    return torch.cat([query, key, value]).float()
