"""Tensors from files, and into modules. Nothing here unpickles what could run code.

The names in files are those of Hugging Face's published BEiT files ("disk names"); DISK_NAMES leads from our module
names to them. D width.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .config import CheckpointError, CheckpointMismatch
from .unpickle import module_tensors, read_pickle

WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = tuple(file for name in WHOLE_FILES for file in (name, f"{name}.index.json"))
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


def find_weights(folder: Path) -> list[Path]:
    """The files that hold the weights of a model folder, in a fixed order. Raises CheckpointError if there are none."""
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return _shards(folder / name) if name.endswith(".json") else [folder / name]
    raise CheckpointError(f"no weights in {folder}: expected one of {', '.join(WEIGHT_FILES)}")


def _shards(index: Path) -> list[Path]:
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    paths = [index.parent / name for name in names]
    absent = [name for name, path in zip(names, paths, strict=True) if Path(name).name != name or not path.is_file()]
    if absent or not names:
        raise CheckpointError(f"{index} names parts that are not next to it: {', '.join(absent) or '(none at all)'}")
    return paths


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Named tensors of a `.safetensors` file or of a pickle. Raises CheckpointError, never runs code."""
    if path.suffix != ".safetensors":
        return module_tensors(read_pickle(path))
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


def digest(paths: list[Path], meaning: str) -> str:
    """sha256 (hex) of the content of these files and of `meaning`; independent of where the files lie."""
    total = hashlib.sha256(meaning.encode())
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


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
