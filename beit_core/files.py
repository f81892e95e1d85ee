"""The files of a model folder: which there are, and a digest of their content. No tensor is read here."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from .errors import CheckpointError
from .schema import INDEX, check

WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = (*(file for name in WHOLE_FILES for file in (name, f"{name}.index.json")), "flax_model.msgpack")
MOST_HEADER = 100_000_000  # bytes, the format's own limit
NO_FILE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
HALVES = ("encoder.pkl", "decoder.pkl")  # of the tokenizer, as DALL-E published it


@contextmanager
def reaching(path: Path, can_be: str = "read") -> Iterator[None]:
    """Within the block, what the system says against a file is a CheckpointError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        file = getattr(error, "filename", None)
        raise CheckpointError(f"{path} cannot be {can_be}: {reason}{f' ({file})' if file else ''}") from error


def find_weights(source: Path) -> list[Path]:
    """The files that hold a model's weights: itself, or those of its folder in a fixed order.

    Raises CheckpointError if there are none.
    """
    if source.is_file():
        return [source]
    for name in WEIGHT_FILES:
        if (source / name).is_file():
            return _shards(source / name) if name.endswith(".json") else [source / name]
    if halves := [source / name for name in HALVES if (source / name).is_file()]:
        return halves
    raise CheckpointError(f"no weights in {source}: expected one of {', '.join((*WEIGHT_FILES, *HALVES))}")


def tensor_names(source: Path) -> frozenset[str] | None:
    """Names of the tensors of safetensors files, whose headers list them; None for formats without such headers."""
    found: set[str] = set()
    for path in find_weights(source):
        if path.suffix != ".safetensors":
            return None
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = file.read(length) if length <= MOST_HEADER else b""
        try:
            found |= json.loads(header).keys()
        except (ValueError, AttributeError):
            return None  # damaged: reading the tensors reports how
    return frozenset(found)


def _shards(index: Path) -> list[Path]:
    raw = read_json(index)
    check(raw, INDEX, index)
    names = sorted(set(raw.get("weight_map", {}).values()))
    paths = [index.parent / name for name in names]
    absent = [name for name, path in zip(names, paths, strict=True) if Path(name).name != name or not path.is_file()]
    if absent or not names:
        raise CheckpointError(f"{index} names parts that are not next to it: {', '.join(absent) or '(none at all)'}")
    return paths


def read_json(path: Path, absent: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JSON object, `absent` if given where there is no such file. Raises CheckpointError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows begin with a mark
    except OSError as error:
        if absent is not None and isinstance(error, NO_FILE):
            return absent
        if isinstance(error, FileNotFoundError):
            raise CheckpointError(f"{path} does not exist") from None
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not an object")
    return content


def is_timms(folder: Path) -> bool:
    """Whether a folder is timm's: its `config.json` says nothing that transformers' does. Raises CheckpointError."""
    raw = read_json(folder / "config.json", absent={})
    return "architecture" in raw and not {"architectures", "model_type"} & raw.keys()


def own_config(folder: Path) -> Path | None:
    """A folder's `config.json` of transformers, None where it has none or timm's. Raises CheckpointError."""
    own = folder / "config.json"
    return own if own.is_file() and not is_timms(folder) else None


def digest(paths: list[Path], meaning: str) -> str:
    """sha256 (hex) of the content of these files and of `meaning`; independent of where the files lie."""
    total = hashlib.sha256(meaning.encode())
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
