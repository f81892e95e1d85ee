"""Data files as the page reads them: a footer and some columns of first rows, within a budget, and never an error."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.images import UNREADABLE
from pipeline.output.columns import ANSWERS, BASE, answers_in
from pipeline.output.span_file import META
from pipeline.storage.ranged import Meter, Ranges

BUFFER = 1 << 18  # bytes per request inside a data file
SOURCE = "source"  # the page's own column: what the span of a row is a part of
TASKS = frozenset(ANSWERS)  # the columns by which sections know answers
RENAMED = " (column)"  # behind the name of a column that is not what the page would take it for


def open_file(entry: storage.Entry, meter: Meter) -> pq.ParquetFile | None:
    """A data file, of which the footer is read; None when it cannot be, or is none of ours."""
    try:
        file = pq.ParquetFile(Ranges(entry, meter), buffer_size=BUFFER, pre_buffer=False)
    except UNREADABLE:
        return None
    return file if {field.name for field in BASE} <= set(file.schema_arrow.names) else None


def facts_of(file: pq.ParquetFile) -> Mapping[str, object]:
    """The metadata of the span in this file; empty if it has none of ours."""
    try:
        facts = json.loads(file.metadata.metadata[META])
    except (TypeError, KeyError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def page_name(name: str, others: Collection[str]) -> str:
    """What the page calls a file's column; no two have the same name, and none has that of its own column.

    One of the `others`, which are no answers that it knows, may be called as these are: it has another name here.
    """
    is_other = name == SOURCE or (name in others and name in TASKS)
    return f"{name}{RENAMED}" if is_other or name.endswith(RENAMED) else name


def other_columns(schema: pa.Schema, kept: Collection[str]) -> frozenset[str]:
    """The columns that are no answers that the page knows, by name or by type."""
    return frozenset(schema.names) - answers_in(schema, kept)


def page_schema(file: pq.ParquetFile, kept: Collection[str]) -> pa.Schema:
    """The columns of a file as the page calls them, in order."""
    others = other_columns(file.schema_arrow, kept)
    return pa.schema([field.with_name(page_name(field.name, others)) for field in file.schema_arrow])


def scalars(schema: pa.Schema, *, text: bool) -> list[str]:
    """The columns of a task, or kept ones, that hold a number or a truth value per row; with `text` words as well."""
    base = {field.name for field in BASE}
    kinds = [pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean]
    if text:
        kinds += [pa.types.is_string, pa.types.is_large_string]
    return [field.name for field in schema if field.name not in base and any(kind(field.type) for kind in kinds)]


def first_rows(file: pq.ParquetFile, rows: int, wanted: Collection[str], kept: Collection[str]) -> pa.Table | None:
    """The first rows of a file: the columns that are wanted, as the page calls them, and the `source` of its span."""
    others = other_columns(file.schema_arrow, kept)
    names = {name: page_name(name, others) for name in file.schema_arrow.names}
    columns = [name for name, called in names.items() if called in wanted]
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
    table = table.rename_columns([names[name] for name in table.column_names])
    return table.append_column(SOURCE, pa.array([facts_of(file).get("source", "")] * len(table), pa.string()))
