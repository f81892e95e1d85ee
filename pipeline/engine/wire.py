"""Spans and receipts as blocks of one row, for the way between the steps of a Ray dataset."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.engine.reader import Loaded
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan import rows as plan_rows
from pipeline.plan.rows import Row

ROW_SCHEMA = pa.schema([("row", pa.string())])
RECEIPT_SCHEMA = pa.schema([("receipt", pa.string())])
LOADED_SCHEMA = pa.schema(
    [("head", pa.string()), ("rows", pa.large_binary()), ("before", pa.large_binary()), ("pixels", pa.large_binary())]
)


def row_to_table(row: Row) -> pa.Table:
    """A block of one row of the dataset."""
    return pa.table([[plan_rows.to_json(row)]], schema=ROW_SCHEMA)


def rows_from_table(table: pa.Table) -> list[Row]:
    """The inverse, for any number of rows."""
    return [plan_rows.from_json(text) for text in table["row"].to_pylist()]


def receipts_to_table(receipts: list[Receipt]) -> pa.Table:
    """A row per receipt."""
    return pa.table([[receipt.to_json() for receipt in receipts]], schema=RECEIPT_SCHEMA)


def loaded_to_table(loaded: Loaded) -> pa.Table:
    """One row; pixels travel as the uint8 they are, end to end in one buffer."""
    pictures = [list(view) for view in loaded.views]
    head: dict[str, Any] = {
        "facts": asdict(loaded.facts),
        "todo": loaded.todo.tolist(),
        "seconds": loaded.seconds,
        "done": loaded.done,
        "copied": loaded.copied,
        "shapes": [[picture.shape for picture in view] for view in pictures],
        "stacked": [isinstance(view, np.ndarray) for view in loaded.views],
    }
    flat = [np.ascontiguousarray(view).reshape(-1) for view in loaded.views if isinstance(view, np.ndarray)]
    flat += [p.reshape(-1) for view in loaded.views if not isinstance(view, np.ndarray) for p in view]
    pixels = np.concatenate(flat) if len(flat) > 1 else (flat[0] if flat else np.zeros(0, np.uint8))
    row = [json.dumps(head), _pack(loaded.rows), _pack(loaded.before), pa.py_buffer(pixels)]
    return pa.Table.from_arrays(
        [pa.array([row[0]], pa.string()), *(_binary(value) for value in row[1:])], schema=LOADED_SCHEMA
    )


def loaded_from_table(table: pa.Table) -> Loaded:
    """The inverse; pixels are views into the block, not copies."""
    head: dict[str, Any] = json.loads(table["head"][0].as_py())
    rows, before, raw = (table[name][0].as_buffer() for name in ("rows", "before", "pixels"))
    pixels = np.frombuffer(raw, np.uint8) if raw is not None and raw.size else np.zeros(0, np.uint8)
    views: list[Any] = [None] * len(head["shapes"])
    offset = 0
    for number in sorted(range(len(views)), key=lambda n: not head["stacked"][n]):
        shapes = head["shapes"][number]
        pictures = []
        begin = offset
        for shape in shapes:
            size = shape[0] * shape[1] * shape[2]
            pictures.append(pixels[offset : offset + size].reshape(shape))
            offset += size
        stacked = head["stacked"][number]
        views[number] = pixels[begin:offset].reshape(len(shapes), *shapes[0]) if stacked and shapes else pictures
    todo = np.array(head["todo"], bool)
    unpacked = _unpack(rows)
    if unpacked is None:
        raise ValueError("a span travelled without its rows")
    extra = {name: head[name] for name in ("seconds", "done", "copied")}
    return Loaded(SpanFacts(**head["facts"]), unpacked, todo, views, _unpack(before), **extra)


def _pack(table: pa.Table | None) -> pa.Buffer | None:
    if table is None:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpack(buffer: pa.Buffer | None) -> pa.Table | None:
    return None if buffer is None else pa.ipc.open_stream(buffer).read_all()


def _binary(buffer: pa.Buffer | None) -> pa.Array:
    """An array of one value around a buffer, without a copy; `pa.array` would make two of 256 MiB."""
    if buffer is None:
        return pa.nulls(1, pa.large_binary())
    offsets = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])
