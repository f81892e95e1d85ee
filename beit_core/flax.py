"""The little of MessagePack that flax writes its weights in (msgpack.org, flax.serialization)."""

from __future__ import annotations

import math
import struct
from typing import Any

import torch
from torch import Tensor

from .config import CheckpointError

NDARRAY = 1  # flax's extension type: (shape, dtype name, bytes)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "int32": torch.int32}
SCALARS = {0xCA: ">f", 0xCB: ">d", 0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}
SCALARS |= {0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}
# First byte -> (what follows, format of its length).
SIZED = {0xC4: ("bin", ">B"), 0xC5: ("bin", ">H"), 0xC6: ("bin", ">I")}
SIZED |= {0xC7: ("ext", ">B"), 0xC8: ("ext", ">H"), 0xC9: ("ext", ">I")}
SIZED |= {0xD9: ("str", ">B"), 0xDA: ("str", ">H"), 0xDB: ("str", ">I")}
SIZED |= {0xDC: ("array", ">H"), 0xDD: ("array", ">I"), 0xDE: ("map", ">H"), 0xDF: ("map", ">I")}


def unpack(data: bytes) -> Any:
    """One value: nested dicts whose leaves are tensors. Raises CheckpointError for anything flax does not write."""
    try:
        value, _ = _value(memoryview(data), 0)
    except (struct.error, IndexError, UnicodeDecodeError, KeyError) as error:
        raise CheckpointError(f"not a flax weights file: {error!r}") from error
    return value


def _value(data: memoryview, at: int) -> tuple[Any, int]:
    code = data[at]
    if code in SCALARS:
        return struct.unpack_from(SCALARS[code], data, at + 1)[0], at + 1 + struct.calcsize(SCALARS[code])
    if code in SIZED:
        kind, length = SIZED[code]
        (count,) = struct.unpack_from(length, data, at + 1)
        return _sized(data, at + 1 + struct.calcsize(length), kind, count)
    if code in (0xC0, 0xC2, 0xC3):
        return {0xC0: None, 0xC2: False, 0xC3: True}[code], at + 1
    if 0xD4 <= code <= 0xD8:
        return _sized(data, at + 1, "ext", 1 << (code - 0xD4))
    if code <= 0x7F or code >= 0xE0:
        return code if code <= 0x7F else code - 256, at + 1
    if code >= 0xA0:
        return _sized(data, at + 1, "str", code & 0x1F)
    return _sized(data, at + 1, "array" if code >= 0x90 else "map", code & 0x0F)


def _sized(data: memoryview, at: int, kind: str, count: int) -> tuple[Any, int]:
    if kind in ("array", "map"):
        items = []
        for _ in range(count * (2 if kind == "map" else 1)):
            item, at = _value(data, at)
            items.append(item)
        return (_joined(dict(zip(items[::2], items[1::2], strict=True))) if kind == "map" else items), at
    tag = kind == "ext"
    body = data[at + tag : at + tag + count]
    if len(body) != count:
        raise IndexError("the file ends too early")
    value = str(body, "utf-8") if kind == "str" else _array(body) if tag and data[at] == NDARRAY else bytes(body)
    return value, at + tag + count


def _array(body: memoryview) -> Tensor:
    (shape, dtype, content), _ = _value(body, 0)
    return torch.frombuffer(bytearray(content), dtype=DTYPES[dtype]).reshape(shape) if content else torch.empty(shape)


def _joined(map_: dict[str, Any]) -> Any:
    """Flax cuts arrays over a gigabyte into chunks; put one together again."""
    if "__msgpack_chunked_array__" not in map_:
        return map_
    shape = [map_["shape"][str(i)] for i in range(len(map_["shape"]))]
    chunks = [map_["chunks"][str(i)] for i in range(len(map_["chunks"]))]
    whole = torch.cat([chunk.flatten() for chunk in chunks])
    if whole.numel() != math.prod(shape):
        raise KeyError("a chunk is missing")
    return whole.reshape(shape)
