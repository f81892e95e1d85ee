"""Named tensors from files of any format, without running what is in them.

A pickle may name anything importable and have it called. Here it can name tensors' own constructors, containers, and
a few classes that become inert shells of their attributes; every other name is refused.
Flax writes MessagePack with arrays as extension type 1 (flax.serialization).
"""

import pickle
import re
import sys
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgpack
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from .errors import CheckpointError

NDARRAY = 1  # flax's extension type: (shape, dtype name, bytes)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int32": torch.int32}
OUR_NAMES = {"kernel": "weight", "scale": "weight"}


class Content(NamedTuple):
    """Named tensors of one file, and the key of the dictionary that held them, "" at the top level."""

    tensors: dict[str, Tensor]
    wrapper: str = ""


def read_tensors(path: Path) -> Content:
    """What a `.safetensors` or `.msgpack` file, or a pickle, holds. Raises CheckpointError, never runs code."""
    if path.suffix == ".msgpack":
        return Content(read_flax(path))
    if path.suffix != ".safetensors":
        return module_tensors(read_pickle(path))
    try:
        return Content(load_file(path))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error


class Shell:
    """Stands for an object of a class that is not imported: holds what it was pickled with and does nothing."""

    dump_patches = False  # read by torch's reader of the old format, which compares the source code of classes

    def __init__(self, *arguments: object) -> None:
        """Whatever the class was called with."""

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


# Modules of the published dVAE pickles, and the settings that training scripts leave in theirs.
SHELLS = re.compile(
    r"(dall_e\.(encoder|decoder|utils)|torch\.nn\.modules\.\w+|argparse)\.\w+|functools\.partial|torch\.device"
)
REAL = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("torch", "Size"): torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
}


class Unpickler(pickle.Unpickler):
    """An unpickler that refuses every name not known to be harmless."""

    def find_class(self, module: str, name: str) -> object:
        """The object for `module.name` in a pickle. Raises CheckpointError."""
        module = "builtins" if module == "__builtin__" else module
        if (module, name) in REAL:
            return REAL[module, name]
        if SHELLS.fullmatch(f"{module}.{name}"):
            return Shell
        raise CheckpointError(f"it asks to import {module}.{name}")


def load(file: BinaryIO, **options: Any) -> object:
    """`pickle.load`, restricted; this module can stand in for `pickle` in torch.load."""
    return Unpickler(file, **options).load()


def read_pickle(path: Path) -> object:
    """Content of a `torch.save` file of either format. Raises CheckpointError naming what it may not hold."""
    _check_zip(path)
    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a shell's source is not that of the class it stands for
            return torch.load(file, map_location="cpu", weights_only=False, pickle_module=sys.modules[__name__])
    except CheckpointError as error:
        raise CheckpointError(f"{path} is refused, it holds more than tensors: {error}") from error
    except Exception as error:  # damaged files raise errors of many types
        raise CheckpointError(f"{path} is not a readable weights file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """The first line of an error, without torch's stack traces."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"


def _check_zip(path: Path) -> None:
    """Raise CheckpointError for a zip that is no state dict, was cut off or has damaged bytes; torch checks no CRC."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise CheckpointError(f"{path} is not a readable weights file: it was cut off, fetch it again")
        return
    try:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise CheckpointError(f"{path} is a TorchScript program, not weights: ask for its state_dict")
            # torch can save without CRCs: all of them are zero then.
            has_crcs = any(entry.CRC for entry in archive.infolist())
            damaged = archive.testzip() if has_crcs else None
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path} is not a readable weights file: {_first_line(error)}") from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: {damaged} in it does not have its checksum, fetch it again")


def module_tensors(content: object) -> Content:
    """Named tensors of a state dict, wrapped or not, or of a shell of a pickled module."""
    if isinstance(content, Shell):
        return Content(dict(_walk(content, "")))
    wrapper = ""
    for key in ("model", "module", "state_dict", "model_ema"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content, wrapper = content[key], key
    if not isinstance(content, dict):
        raise CheckpointError(f"the file holds a {type(content).__name__}, not named tensors")
    return Content({str(name): tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}, wrapper)


def _walk(shell: Shell, prefix: str) -> Iterator[tuple[str, Tensor]]:
    yield from ((prefix + name, value.data) for name, value in vars(shell).get("_parameters", {}).items())
    for name, child in vars(shell).get("_modules", {}).items():
        yield from _walk(child, f"{prefix}{name}.")


def read_flax(path: Path) -> dict[str, Tensor]:
    """Tensors by torch's names and layouts. Raises CheckpointError for anything flax does not write."""
    try:
        tree = msgpack.unpackb(path.read_bytes(), ext_hook=_array)
        return dict(_leaves(tree.get("params", tree)))
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"{path} is not a flax weights file: {error!r}") from error


def _leaves(tree: Mapping[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Tensor]]:
    for name, leaf in tree.items():
        if isinstance(leaf, dict):
            yield from _leaves(leaf, (*path, name))
            continue
        if not isinstance(leaf, Tensor):
            raise TypeError(f"{'.'.join([*path, name])} is a {type(leaf).__name__}, not an array")
        if name == "kernel":
            leaf = leaf.permute(3, 2, 0, 1) if leaf.ndim == 4 else leaf.T
        yield ".".join([*path, OUR_NAMES.get(name, name)]), leaf.contiguous()


def _array(code: int, body: bytes) -> Tensor:
    if code != NDARRAY:
        raise ValueError(f"extension type {code} is no array")
    shape, dtype, content = msgpack.unpackb(body)
    return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).reshape(shape) if content else torch.empty(shape)
