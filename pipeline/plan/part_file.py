"""Plan parts: which loose images there are, and in which spans.

A part holds one row per image; its spans are listed in its metadata, so of a finished one only the footer is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError, is_pyarrows
from pipeline.output.place import Place
from pipeline.plan.rows import LooseSpan
from pipeline.source.item import Item, Unfetched
from pipeline.storage import Entry

PART = re.compile(r"part-(\d{6})\.parquet")
PART_SCHEMA = pa.schema([("uri", pa.string()), ("key", pa.string()), ("version", pa.string()), ("span", pa.string())])
KEPT = pa.field("kept", pa.string())  # one more column of a part where lists name values to keep, as JSON
META = b"beit"
GROUP = 1024  # rows of a row group: the least that is read to get at a span


@dataclass(frozen=True)
class PartSpan:
    """A span of loose images: rows [start, stop) of its part, and the digest of their versions when planned."""

    name: str
    start: int
    stop: int
    version: str

    @property
    def images(self) -> int:
        """How many images it has."""
        return self.stop - self.start


def write_part(place: Place, number: int, spans: list[tuple[PartSpan, pa.Table]], *, changes: bool = False) -> bool:
    """Create part `number` with these spans' images; False when another run has taken that number."""
    meta = {"spans": [asdict(span) for span, _ in spans], "changes": changes}
    table = pa.concat_tables([rows for _, rows in spans], promote_options="default").replace_schema_metadata(
        {META: json.dumps(meta)}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=GROUP)
    with place.writing():
        return storage.create(place.plan_file(_part(number)), sink.getvalue().to_pybytes())


def find_part(place: Place, number: int) -> Entry:
    """Part `number`, which exists."""
    entry = storage.stat(place.plan_file(_part(number)))
    if entry is None:
        raise StorageError(f"{place.root}: somebody deletes the plan while it is written")
    return entry


def next_number(parts: Sequence[Entry]) -> int:
    """The number of the part behind these; some before it are lacking where --overwrite was killed."""
    return int(parts[-1].uri.rpartition("-")[2].partition(".")[0]) + 1 if parts else 0


def _part(number: int) -> str:
    return f"part-{number:06d}.parquet"


@contextmanager
def opened(part: Entry) -> Iterator[BinaryIO]:
    """A part of the plan, to be read in the block; raises StorageError where it is damaged."""
    try:
        with storage.open_stream(part) as stream:
            yield stream
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        if isinstance(error, OSError) and not is_pyarrows(error):
            raise
        raise StorageError(f"{part.uri} is damaged: restore this part of the plan, or begin a new --output") from error


def read_part(part: Entry) -> tuple[list[PartSpan], bool]:
    """The spans of a part from its footer, and whether it lists later versions of images planned before."""
    with opened(part) as stream:
        meta = json.loads(pq.read_metadata(stream).metadata[META])
    return [PartSpan(**span) for span in meta["spans"]], meta["changes"]


def read_images(part: Entry, columns: list[str] | None = None) -> pa.Table:
    """All rows of a part."""
    with opened(part) as stream:
        return pq.read_table(stream, columns=columns)


def read_rows(uri: str, start: int, stop: int) -> pa.Table:
    """Rows [start, stop) of a part; only the row groups that hold them are read."""
    entry = storage.stat(uri)
    if entry is None:
        raise ObjectUnreadable(f"{uri} is gone: the plan of this output is damaged")
    with opened(entry) as stream:
        file = pq.ParquetFile(stream)
        if stop > file.metadata.num_rows:
            raise ObjectUnreadable(f"{uri} has no row {stop - 1}: the plan of this output is damaged")
        first = start // GROUP
        groups = file.read_row_groups(list(range(first, -(-stop // GROUP))))
        return groups.slice(start - first * GROUP, stop - start)


def read_items(span: LooseSpan) -> Iterator[Item]:
    """The loose images of a span, in order."""
    table = read_rows(span.part, span.start, span.stop)
    beside = table[KEPT.name].to_pylist() if KEPT.name in table.column_names else [None] * len(table)
    for uri, key, kept in zip(table["uri"].to_pylist(), table["key"].to_pylist(), beside, strict=True):
        yield Item(uri, key, Unfetched(uri), json.loads(kept) if kept else {})
