"""What the page shows: the run reports, and a small, deterministic sample of rows with their pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.images import wanted_by
from pipeline.output.bound import Bound, bound_of
from pipeline.output.columns import BASE
from pipeline.output.place import Place
from pipeline.page import pictures
from pipeline.page.files import facts_of, first_rows, open_file, page_schema, scalars
from pipeline.page.parts import Row
from pipeline.page.pictures import Pictured
from pipeline.page.reader import even, fair_shares, spread
from pipeline.page.survey import Survey
from pipeline.page.truth import telling
from pipeline.plan.forgotten import is_of_forgetting
from pipeline.status import OK
from pipeline.storage.ranged import Meter

RUNS = 60  # newest run reports read
FOOTERS = 48  # data files whose footer is looked at
FILES = 12  # of these, the files whose first rows are read
ROWS, MASK_ROWS = 400, 120  # masks are large and few are shown
THUMBNAIL = 160  # pixels a side
DATA_BUDGET = 64 << 20
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
        return next((run for run in reversed(self.runs) if not is_of_forgetting(run)), {})


@dataclass(frozen=True)
class Sample:
    """Rows as dicts (without vectors), the vectors of those that have one; by uri, images as they are and thumbnails.

    `survey` has many more rows, without pictures. `decoder` turns dVAE tokens back into pixels, where one is at hand.
    `opened` collects number and row of each tile that opens, as sections draw them.
    """

    rows: list[Row]
    columns: frozenset[str]
    files: int
    file_count: int
    vectors: np.ndarray | None = None
    vector_rows: list[Row] = field(default_factory=list)
    thumbnails: dict[str, bytes] = field(default_factory=dict)
    originals: dict[str, bytes] = field(default_factory=dict)
    bytes_read: int = 0
    decoder: Decoder | None = None
    survey: Survey = field(default_factory=Survey)
    extra: tuple[str, ...] = ()  # scalar columns of the output that no section knows
    opened: dict[str, tuple[int, Row]] = field(default_factory=dict)

    @property
    def truth(self) -> str | None:
        """The column that holds the true class, if there is one."""
        return self.survey.truth

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
    try:
        report = json.loads(data) if isinstance(data, bytes) else {}
    except ValueError:
        return {}
    return report if isinstance(report, dict) and "run" in report else {}


def take_sample(account: Account, columns: Collection[str], survey: Survey | None = None) -> Sample:
    """First rows of a few data files spread over the output, preferring the beginnings of shards (cheap to show).

    Of the files' columns the base ones are read, those in `columns`, and those of one number or word per row; they are
    called as `page_name` says. Beside these rows' pictures there are those of `survey` that a section asks for.
    """
    survey = survey or Survey()
    meter = Meter(DATA_BUDGET)
    entries, count = spread((entry for _, entry in account.place.spans()), FOOTERS)
    files = _near_shard_starts([file for entry in entries if (file := open_file(entry, meter))])
    kept = account.bound.keep
    more = dict.fromkeys(name for file in files for name in scalars(page_schema(file, kept), text=True))
    tables = _read(files, {field.name for field in BASE} | set(columns) | set(more), kept)
    if not tables:
        return Sample([], frozenset(), 0, count, survey=survey)
    sample = _from_table(pa.concat_tables(tables, promote_options="permissive"), len(tables), count)
    found = Meter(pictures.READ_BUDGET)
    images = [Pictured(row["uri"], row["source"]) for row in [*telling(survey), *sample.good()]]
    originals = pictures.originals(images, wanted_by(account.bound), found)
    return replace(
        sample,
        originals=originals,
        thumbnails=pictures.drawn(originals, THUMBNAIL),
        bytes_read=meter.spent + found.spent,
        survey=survey,
        extra=tuple(name for name in more if name not in columns),
    )


def _read(files: list[pq.ParquetFile], columns: Collection[str], kept: Collection[str]) -> list[pa.Table]:
    """The first rows of the files, as many of each as is fair."""
    masks = any("mask" in page_schema(file, kept).names for file in files)
    shares = fair_shares([file.metadata.num_rows for file in files], MASK_ROWS if masks else ROWS)
    tables = [first_rows(file, rows, columns, kept) for file, rows in zip(files, shares, strict=True)]
    return [table for table in tables if table is not None]


def _near_shard_starts(files: list[pq.ParquetFile]) -> list[pq.ParquetFile]:
    """The files to read: those that begin earliest in their shard, since a tar is read from its beginning."""
    if len(files) <= FILES:
        return files
    starts = [start if isinstance(start := facts_of(file).get("start"), int) else 0 for file in files]
    bound = sorted(starts)[FILES - 1]
    return even([file for file, start in zip(files, starts, strict=True) if start <= bound], FILES)


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
