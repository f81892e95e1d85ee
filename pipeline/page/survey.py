"""What the rows of an output say, without pictures: all rows of a small one, rows of many files of a large one."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.classes import check_kind, holds_classes
from pipeline.command import job
from pipeline.errors import ConfigError
from pipeline.output.bound import Bound
from pipeline.output.columns import BASE
from pipeline.output.place import Place
from pipeline.page.files import first_rows, open_file, other_columns, page_name, page_schema, scalars
from pipeline.page.parts import Row, plural
from pipeline.page.reader import fair_shares, spread
from pipeline.status import OK
from pipeline.storage.ranged import Meter

FILES, ROWS = 256, 50_000
BUDGET = 64 << 20  # bytes
AT_ONCE = 8  # files
LISTS = ("labels", "label_ids", "scores")
TOP = 5  # of the lists, which are as long as --top-k
TRUTHS = ("cls", "label")  # columns taken for the truth where none is named


@dataclass(frozen=True)
class Survey:
    """Rows without pictures and vectors; `truth` names the column that holds the true class."""

    rows: list[Row] = field(default_factory=list)
    truth: str | None = None
    named: bool = False  # whether the truth is the user's choice
    whole: bool = True  # whether these are all rows of the output
    labels: tuple[str, ...] = ()  # the names of all classes by id, where the output knows them

    def good(self) -> list[Row]:
        """The rows with an answer."""
        return [row for row in self.rows if row.get("status") == OK]

    def failed(self) -> list[Row]:
        """The rows without one, as they are now."""
        return [row for row in self.rows if row.get("status") != OK]

    def of(self, number: int) -> str:
        """`all 360 images`, or `a sample of 50,000 images`."""
        return f"{'all' if self.whole else 'a sample of'} {plural(number, 'image')}"


def read_survey(place: Place, truth: str | None = None, bound: Bound | None = None) -> Survey:
    """Rows of up to `FILES` files spread over the output; ConfigError if none of them has the column `truth`.

    Columns are called as `page_name` says; `bound` tells which are kept, and the names of all classes.
    """
    kept, labels = (bound.keep, bound.labels) if bound else ((), ())
    entries, count = spread((entry for _, entry in place.spans()), FILES)
    budget = BUDGET // max(len(entries), 1)
    opened = storage.in_parallel(lambda entry: open_file(entry, Meter(budget)), entries, AT_ONCE)
    files = [file for file in opened if file is not None]
    column = _truth_column(place, files, truth, kept)
    sizes = [file.metadata.num_rows for file in files]
    shares = zip(files, fair_shares(sizes, ROWS), strict=True)
    tables = storage.in_parallel(lambda share: _read(*share, column, kept), shares, AT_ONCE)
    rows: list[Row] = [row for table in tables if table is not None for row in table.to_pylist()]
    whole = len(files) == count and len(rows) == sum(sizes)
    return Survey(rows, column, truth is not None, whole, labels)


def _truth_column(place: Place, files: list[pq.ParquetFile], truth: str | None, kept: Collection[str]) -> str | None:
    """The column with the truth, as the page calls it; of those that nobody named one that may hold classes."""
    kinds = {field.name: field.type for file in files for field in file.schema_arrow}
    if truth is None:
        return next((name for name in TRUTHS if name in kinds and holds_classes(kinds[name])), None)
    if truth not in kinds:
        has = ", ".join(kinds) or "no rows yet"
        raise ConfigError(f"{place.root} has no column {truth}: run the job with --keep {truth}; it has {has}")
    others = other_columns(pa.schema(list(kinds.items())), kept)
    if "mask" in (page_name(name, others) for name in kinds):
        compared = f"{job('evaluate')} {shlex.quote(place.root)} --truth {shlex.quote(truth)}"
        raise ConfigError(f"--truth {truth}: the page compares labels; of masks `{compared}` says how right they are")
    check_kind(truth, kinds[truth])
    return page_name(truth, others)


def _read(file: pq.ParquetFile, rows: int, truth: str | None, kept: Collection[str]) -> pa.Table | None:
    wanted = {field.name for field in BASE} | set(LISTS) | set(scalars(page_schema(file, kept), text=False))
    table = first_rows(file, rows, wanted | {truth or "uri"}, kept)
    if table is None:
        return None
    for place, name in enumerate(table.column_names):
        if name in LISTS and pa.types.is_list(table.schema.field(name).type):
            table = table.set_column(place, name, pc.list_slice(table.column(name), 0, TOP))
    return table
