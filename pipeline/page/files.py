"""Data files as the page reads them: a footer and some columns of first rows, within a budget, and never an error."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.images import UNREADABLE
from pipeline.output.columns import BASE
from pipeline.output.span_file import META
from pipeline.storage.ranged import Meter, Ranges

BUFFER = 1 << 18  # bytes per request inside a data file


def open_file(entry: storage.Entry, meter: Meter) -> pq.ParquetFile | None:
    """A data file, of which the footer is read; None when it cannot be."""
    try:
        return pq.ParquetFile(Ranges(entry, meter), buffer_size=BUFFER, pre_buffer=False)
    except UNREADABLE:
        return None


def facts_of(file: pq.ParquetFile) -> Mapping[str, object]:
    """The metadata of the span in this file; empty if it has none of ours."""
    try:
        facts = json.loads(file.metadata.metadata[META])
    except (TypeError, KeyError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def scalars(schema: pa.Schema, *, text: bool) -> list[str]:
    """The columns of a task, or kept ones, that hold a number or a truth value per row; with `text` words as well."""
    base = {field.name for field in BASE}
    kinds = [pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean]
    if text:
        kinds += [pa.types.is_string, pa.types.is_large_string]
    return [field.name for field in schema if field.name not in base and any(kind(field.type) for kind in kinds)]


def first_rows(file: pq.ParquetFile, rows: int, wanted: Collection[str]) -> pa.Table | None:
    """The first rows of a file: the columns that are wanted, and the `source` of its span."""
    columns = [name for name in file.schema_arrow.names if name in wanted]
    batches: list[pa.RecordBatch] = []
    try:
        for batch in file.iter_batches(batch_size=max(rows, 1), columns=columns):
            batches.append(batch.slice(0, rows))
            rows -= batch.num_rows
            if rows <= 0:
                break
    except UNREADABLE:
        rows = 0  # what was read before counts
    if not batches:
        return None
    table = pa.Table.from_batches(batches)
    return table.append_column("source", pa.array([facts_of(file).get("source", "")] * len(table), pa.string()))
