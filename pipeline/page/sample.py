"""What the page shows: the run reports, and a small, deterministic sample of rows with their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.decode.decode import extensions
from pipeline.errors import CredentialsLost
from pipeline.output.bound import Bound, bound_of
from pipeline.output.columns import BASE, OK
from pipeline.output.place import Place
from pipeline.page import pictures
from pipeline.page.parts import Row
from pipeline.page.pictures import Pictured
from pipeline.page.reader import even, fair_shares, spread
from pipeline.plan.forgotten import MODE as FORGET
from pipeline.source.item import Wanted
from pipeline.storage.ranged import Meter, Ranges

RUNS = 60  # newest run reports read
FOOTERS = 48  # data files whose footer is looked at
FILES = 12  # of these, the files whose first rows are read
ROWS, MASK_ROWS = 400, 120  # masks are large and few are shown
THUMBNAIL = 192  # pixels
DATA_BUDGET = 64 << 20
BUFFER = 1 << 18  # bytes per request inside a data file
Report = Mapping[str, object]  # a run's own, as its JSON stands in the output
Decoder = Callable[[np.ndarray], np.ndarray]  # tokens (B, N) to pixels (B, H, W, 3) uint8


@dataclass(frozen=True)
class Account:
    """What an output is bound to, and its newest run reports, oldest first; `complete`: the last run succeeded."""

    place: Place
    bound: Bound
    runs: list[Report]
    run_count: int
    complete: bool

    @property
    def last(self) -> Report:
        """The newest report of a run on the source; empty before the first one ended."""
        return next((run for run in reversed(self.runs) if run.get("mode") != FORGET), {})


@dataclass(frozen=True)
class Sample:
    """Rows as dicts (without vectors), the vectors of those that have one, and thumbnails by uri.

    `decoder` turns dVAE tokens back into pixels, where one is at hand.
    """

    rows: list[Row]
    columns: frozenset[str]
    files: int
    file_count: int
    vectors: np.ndarray | None = None
    vector_rows: list[Row] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    bytes_read: int = 0
    decoder: Decoder | None = None

    def good(self) -> list[Row]:
        """The rows with an answer."""
        return [row for row in self.rows if row.get("status") == OK]


def read_account(place: Place) -> Account:
    """The binding and run reports of the output; ConfigError if there is none."""
    bound = bound_of(place)
    uris = place.reports()
    reports = [_report(data) for data in storage.read_many(uris[-RUNS:])]
    complete = storage.stat(place.success_file) is not None
    return Account(place, bound, [report for report in reports if report], len(uris), complete)


def _report(data: bytes | Exception) -> Report:
    """One run report; empty when it cannot be read, for a page without it is better than no page."""
    if isinstance(data, CredentialsLost):
        raise data
    try:
        report = json.loads(data) if isinstance(data, bytes) else {}
    except ValueError:
        return {}
    return report if isinstance(report, dict) and "run" in report else {}


def take_sample(place: Place, columns: Collection[str], image_column: str | None = None) -> Sample:
    """First rows of a few data files spread over the output, preferring the beginnings of shards (cheap to show).

    Of the files' columns the base ones are read and those in `columns`.
    """
    read = {field.name for field in BASE} | set(columns)
    meter = Meter(DATA_BUDGET)
    entries, count = spread((entry for _, entry in place.spans()), FOOTERS)
    files = _near_shard_starts([file for entry in entries if (file := _open(entry, meter))])
    masks = any("mask" in file.schema_arrow.names for file in files)
    shares = fair_shares([file.metadata.num_rows for file in files], MASK_ROWS if masks else ROWS)
    tables = [table for file, rows in zip(files, shares, strict=True) if (table := _first_rows(file, rows, read))]
    if not tables:
        return Sample([], frozenset(), 0, count)
    sample = _from_table(pa.concat_tables(tables, promote_options="permissive"), len(tables), count)
    found = Meter(pictures.READ_BUDGET)
    images = [Pictured(row["uri"], row["source"]) for row in sample.good()]
    endings = frozenset(ending.removeprefix(".") for ending in extensions())
    wanted = Wanted(endings, image_column)
    thumbnails = pictures.thumbnails(images, THUMBNAIL, wanted, found)
    return replace(sample, thumbnails=thumbnails, bytes_read=meter.spent + found.spent)


def _open(entry: storage.Entry, meter: Meter) -> pq.ParquetFile | None:
    try:
        return pq.ParquetFile(Ranges(entry, meter), buffer_size=BUFFER, pre_buffer=False)
    except CredentialsLost:
        raise
    except pictures.UNREADABLE:
        return None


def _near_shard_starts(files: list[pq.ParquetFile]) -> list[pq.ParquetFile]:
    """The files to read: those that begin earliest in their shard, since a tar is read from its beginning."""
    if len(files) <= FILES:
        return files
    starts = [start if isinstance(start := _facts(file).get("start"), int) else 0 for file in files]
    bound = sorted(starts)[FILES - 1]
    return even([file for file, start in zip(files, starts, strict=True) if start <= bound], FILES)


def _facts(file: pq.ParquetFile) -> Mapping[str, object]:
    """The metadata of the span in this file; empty if it has none of ours."""
    try:
        facts = json.loads(file.metadata.metadata[b"beit"])
    except (TypeError, KeyError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _first_rows(file: pq.ParquetFile, rows: int, wanted: Collection[str]) -> pa.Table | None:
    columns = [name for name in file.schema_arrow.names if name in wanted]
    batches: list[pa.RecordBatch] = []
    try:
        for batch in file.iter_batches(batch_size=max(rows, 1), columns=columns):
            batches.append(batch.slice(0, rows))
            rows -= batch.num_rows
            if rows <= 0:
                break
    except CredentialsLost:
        raise
    except pictures.UNREADABLE:
        rows = 0  # what was read before counts
    if not batches:
        return None
    table = pa.Table.from_batches(batches)
    return table.append_column("source", pa.array([_facts(file).get("source", "")] * len(table), pa.string()))


def _from_table(table: pa.Table, files: int, file_count: int) -> Sample:
    columns = frozenset(table.column_names)
    vectors = None
    plain = table.drop_columns(["embedding"]) if "embedding" in columns else table
    rows: list[Row] = plain.to_pylist()
    vector_rows: list[Row] = []
    if "embedding" in columns:
        column = table.column("embedding").combine_chunks()
        valid = column.is_valid().to_pylist()
        vector_rows = [row for row, there in zip(rows, valid, strict=True) if there]
        flat = column.drop_null().flatten().to_numpy(zero_copy_only=False)
        vectors = flat.astype(np.float32).reshape(len(vector_rows), -1) if vector_rows else None
    return Sample(rows, columns, files, file_count, vectors, vector_rows)
