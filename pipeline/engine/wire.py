"""Rows, spans and receipts as Arrow blocks, for the way between the steps of a Ray dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa

from pipeline.engine.span_decoder import Pixels, SpanPixels
from pipeline.engine.spans import AnsweredSpan, DecodedSpan
from pipeline.output.receipts import DeviceUsed, Reading, Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan import rows as plan_rows
from pipeline.plan.rows import Row

ROWS = pa.schema([("numbers", pa.list_(pa.int64())), ("rows", pa.list_(pa.string()))])
REPORTS = pa.schema([("numbers", pa.list_(pa.int64())), ("receipts", pa.list_(pa.string()))])
SPAN = pa.schema(
    [("number", pa.int64()), ("head", pa.string()), ("rows", pa.large_binary()), ("before", pa.large_binary()),
     ("pixels", pa.large_binary())]
)  # fmt: skip


def rows_to_table(group: list[tuple[int, str]]) -> pa.Table:
    """A group of rows of the plan with their numbers, as JSON."""
    return _in_one_row(ROWS, [number for number, _ in group], [text for _, text in group])


def rows_from_table(table: pa.Table) -> list[tuple[int, Row]]:
    """Rows of the plan with their numbers; rows without a number are left out."""
    return [(number, plan_rows.from_json(text)) for number, text in _pairs(table) if number >= 0]


def reports_to_table(reports: list[tuple[int, Receipt | None]]) -> pa.Table:
    """Receipts with the number of the row they are of; without a receipt: the row is done."""
    texts = [receipt.to_json() if receipt else None for _, receipt in reports]
    return _in_one_row(REPORTS, [number for number, _ in reports], texts)


def reports_from_table(table: pa.Table) -> list[tuple[int, Receipt | None]]:
    """The inverse of `reports_to_table`."""
    return [(number, Receipt.from_json(text) if text else None) for number, text in _pairs(table)]


def _in_one_row(schema: pa.Schema, *columns: Sequence[object]) -> pa.Table:
    """Several things in one row: Ray makes a block, which costs the driver milliseconds, of every row."""
    return pa.table([[column] for column in columns], schema=schema)


def _pairs(table: pa.Table) -> Iterator[tuple[int, str]]:
    """What `_in_one_row` has put together, of all rows."""
    for numbers, texts in zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True):
        yield from zip(numbers, texts, strict=True)


def finished_to_table(number: int, receipt: Receipt | None) -> pa.Table:
    """A span that was finished already; None: the row of this number was read to its end."""
    head = {"span": "finished", "receipt": receipt.to_json()} if receipt else {"span": "end"}
    return _span_table(number, json.dumps(head), None, None, None)


def decoded_to_table(number: int, span: DecodedSpan, pixels: Pixels) -> pa.Table:
    """A decoded span; pixels travel as the uint8 they are, end to end in one buffer."""
    head = {
        "span": "decoded",
        "facts": asdict(span.facts),
        "reading": asdict(span.reading),
        "todo": span.todo.tolist(),
        "kept": span.kept.tolist(),
        "seconds": span.seconds,
        "shapes": [[image.shape for image in view] for view in pixels],
    }
    flat = [np.ascontiguousarray(image).reshape(-1) for view in pixels for image in view]
    raw = pa.py_buffer(np.concatenate(flat) if flat else np.zeros(0, np.uint8))
    return _span_table(number, json.dumps(head), _pack(span.rows), _pack(span.before), raw)


def answered_to_table(number: int, span: AnsweredSpan) -> pa.Table:
    """A span with its answers."""
    head = {"span": "answered", "facts": asdict(span.facts), "reading": asdict(span.reading), "done": span.done}
    head |= {"seconds": span.seconds, "device": span.device, "first_labels": span.first_labels}
    return _span_table(number, json.dumps(head), _pack(span.rows), None, None)


def span_from_table(table: pa.Table) -> tuple[int, Receipt | SpanPixels | AnsweredSpan | None]:
    """The row's number and what the block holds; pixels are views into the block, not copies."""
    number, head = table["number"][0].as_py(), json.loads(table["head"][0].as_py())
    if head["span"] == "end":
        return number, None
    if head["span"] == "finished":
        return number, Receipt.from_json(head["receipt"])
    facts, reading = SpanFacts.of(head["facts"]), Reading(**head["reading"])
    rows = _unpack(table, "rows")
    if rows is None:
        raise ValueError(f"the span {facts.name} travelled without its rows")
    if head["span"] == "answered":
        device = DeviceUsed(*head["device"])
        seconds, labels = head["seconds"], head["first_labels"]
        return number, AnsweredSpan(facts, reading, rows, head["done"], seconds, device, labels)
    todo, kept = np.array(head["todo"], bool), np.array(head["kept"], bool)
    span = DecodedSpan(facts, reading, rows, todo, kept, _unpack(table, "before"), head["seconds"])
    return number, SpanPixels(span, _images(_buffer(table, "pixels"), head["shapes"]))


def _images(raw: pa.Buffer | None, shapes: list[list[tuple[int, int, int]]]) -> Pixels:
    flat = np.frombuffer(raw, np.uint8) if raw is not None and raw.size else np.zeros(0, np.uint8)
    pixels: Pixels = []
    offset = 0
    for view in shapes:
        images = []
        for height, width, channels in view:
            size = height * width * channels
            images.append(flat[offset : offset + size].reshape(height, width, channels))
            offset += size
        pixels.append(images)
    return pixels


def _span_table(
    number: int, head: str, rows: pa.Buffer | None, before: pa.Buffer | None, pixels: pa.Buffer | None
) -> pa.Table:
    columns = [pa.array([number], pa.int64()), pa.array([head]), _binary(rows), _binary(before), _binary(pixels)]
    return pa.Table.from_arrays(columns, schema=SPAN)


def _binary(buffer: pa.Buffer | None) -> pa.Array:
    """An array of one value around a buffer, without a copy; `pa.array` would make two of 256 MiB."""
    if buffer is None:
        return pa.nulls(1, pa.large_binary())
    offsets = pa.py_buffer(np.array([0, buffer.size], np.int64))
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), 1, [None, offsets, buffer])


def _buffer(table: pa.Table, column: str) -> pa.Buffer | None:
    """The only value of a binary column, without a copy; `as_buffer` of a scalar makes one."""
    chunk = table[column].combine_chunks() if table[column].num_chunks != 1 else table[column].chunk(0)
    if chunk.null_count:
        return None
    start, stop = np.frombuffer(chunk.buffers()[1], np.int64)[chunk.offset : chunk.offset + 2]
    return chunk.buffers()[2].slice(int(start), int(stop - start))


def _pack(table: pa.Table | None) -> pa.Buffer | None:
    if table is None:
        return None
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _unpack(table: pa.Table, column: str) -> pa.Table | None:
    buffer = _buffer(table, column)
    return None if buffer is None else pa.ipc.open_stream(buffer).read_all()
