"""The plan on storage: numbered parts that list loose images, and one entry for every shard that was read to its end.

Each file is created exclusively and never changed. A part holds one row per image; its spans are listed in its
metadata, so of a finished one only the footer is read. A shard's counts are in its entry's *name*, so finished shards
take one listing:

    plan/part-000012.parquet                           loose images, or later versions of images of earlier parts
    plan/shard-NAME.NUMBER-VERSION-IMAGES.json         the latest number of a shard counts
    plan/forgotten-000003.parquet                      images that are forgotten, see `forgotten.py`
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, BinaryIO, NamedTuple, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ObjectUnreadable, StorageError
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts, is_pyarrows
from pipeline.plan.names import short_version
from pipeline.plan.rows import REOPENED, LooseSpan, ShardRef, UnreadShard
from pipeline.source.item import Item, Unfetched
from pipeline.storage import Entry

T = TypeVar("T")
PART_SCHEMA = pa.schema([("uri", pa.string()), ("key", pa.string()), ("version", pa.string()), ("span", pa.string())])
KEPT = pa.field("kept", pa.string())  # one more column of a part where lists name values to keep, as JSON
META = b"beit"
GROUP = 1024  # rows of a row group: the least that is read to get at a span
PART = re.compile(r"part-(\d{6})\.parquet")
FORGOTTEN = re.compile(r"forgotten-(\d{6})\.parquet")
SHARD = re.compile(r"shard-(.+)\.(\d+)-([0-9a-f]{8})-(\d+)\.json")


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


@dataclass(frozen=True)
class ShardEntry:
    """What an entry's name says: how many images a version of the shard holds; `version` is its 8-character digest."""

    name: str
    number: int
    version: str
    images: int
    uri: str

    @property
    def is_reopened(self) -> bool:
        """Whether it stands for no version, as the shard is being read again."""
        return self.version == REOPENED

    @property
    def says(self) -> str:
        """Version and images, as they stand in the name."""
        return f"{self.version}-{self.images}"

    @property
    def file(self) -> str:
        """Its file below `plan/`."""
        return f"shard-{self.name}.{self.number}-{self.says}.json"


@dataclass(frozen=True)
class PlacedSpan:
    """Where a span of a shard begins, by images and by position, and how many images it has."""

    start: int
    images: int
    offset: int
    skip: int

    @staticmethod
    def of(facts: SpanFacts) -> PlacedSpan:
        """As the finished span's file says."""
        return PlacedSpan(facts.start, facts.images, facts.offset, facts.skip)


@dataclass(frozen=True)
class ShardContent:
    """What an entry holds: the spans of a shard, whether a member name came twice in it, and whether it `ends_early`.

    Then the shard could not be read to its end.
    """

    spans: tuple[PlacedSpan, ...]
    repeated_names: bool
    ends_early: bool


class Known(NamedTuple):
    """What was known of a version of a shard: how many images, and whether it ended before its end.

    `reopened`: a run has begun to read on behind them, and has not come to the end.
    """

    images: int
    ends_early: bool
    reopened: bool


class Whence(NamedTuple):
    """What an entry was made of: the uri of the shard, and the name of its format."""

    uri: str
    format: str


class PlanListing(NamedTuple):
    """All parts by number, the latest entry of every shard by its name, and forgetting parts (`forgotten.py`)."""

    parts: list[Entry]
    shards: dict[str, ShardEntry]
    forgotten: list[Entry]


def listing(place: Place) -> PlanListing:
    """What the plan is made of."""
    parts: list[Entry] = []
    shards: dict[str, ShardEntry] = {}
    forgotten: list[Entry] = []
    for entry in storage.listing(place.plan):
        file = entry.uri.rpartition("/")[2]  # the folder above may have any name, `shard-1` too
        if PART.fullmatch(file):
            parts.append(entry)
        elif FORGOTTEN.fullmatch(file):
            forgotten.append(entry)
        elif match := SHARD.fullmatch(file):
            name, number, version, images = match.groups()
            found = ShardEntry(name, int(number), version, int(images), entry.uri)
            if name not in shards or (shards[name].number, shards[name].images) < (found.number, found.images):
                shards[name] = found
    numbered = operator.attrgetter("uri")
    return PlanListing(sorted(parts, key=numbered), shards, sorted(forgotten, key=numbered))


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


def write_shard_entry(place: Place, row: UnreadShard, content: ShardContent) -> None:
    """Add the entry of a shard that was read to its end."""
    shard, images = row.shard, sum(span.images for span in content.spans)
    entry = ShardEntry(shard.name, row.number, short_version(shard.version), images, "")
    _write_entry(place, shard, entry, content)


def known_before(place: Place, row: UnreadShard) -> Known | None:
    """What the plan has of this very version of a shard that is read again; None where it has nothing."""
    version, _, images = row.entry_says.rpartition("-")
    if version not in (short_version(row.shard.version), REOPENED):
        return None
    entry = ShardEntry(row.shard.name, row.number - 1, version, int(images), "")
    entry = replace(entry, uri=place.plan_file(entry.file))
    of, content = _read_entry(entry, lambda body: (body["version"], _content(body)))
    if of != row.shard.version:
        return None
    return Known(entry.images, ends_early=content.ends_early, reopened=entry.is_reopened)


def reopen_shard(place: Place, row: UnreadShard, known: Known) -> UnreadShard:
    """Before a span is written that may go on behind the end of a shard that ended early: the row from then on.

    Should the run die before the next entry, the shard would seem finished without the images that are found there by
    now, and their spans surplus. So an entry that stands for no version takes the place of the one before.
    """
    entry = ShardEntry(row.shard.name, row.number, REOPENED, known.images, "")
    _write_entry(place, row.shard, entry, ShardContent((), repeated_names=False, ends_early=known.ends_early))
    return replace(row, number=row.number + 1, entry_says=entry.says)


def _write_entry(place: Place, shard: ShardRef, entry: ShardEntry, content: ShardContent) -> None:
    body = {
        "uri": shard.uri,
        "format": shard.format,
        "version": shard.version,
        "size": shard.size,
        "images": entry.images,
        "repeated_names": content.repeated_names,
        "ends_early": content.ends_early,
        "spans": [asdict(span) for span in content.spans],
    }
    with place.writing():
        storage.create(place.plan_file(entry.file), json.dumps(body).encode())


def read_shard_entry(entry: ShardEntry) -> ShardContent:
    """What the entry of a shard holds; raises StorageError where it is damaged."""
    return _read_entry(entry, _content)


def whence(entry: ShardEntry) -> Whence:
    """Where the shard of an entry was, and its format; raises StorageError where the entry is damaged."""
    return _read_entry(entry, lambda body: Whence(body["uri"], body["format"]))


def _content(body: Mapping[str, Any]) -> ShardContent:
    spans = tuple(PlacedSpan(**span) for span in body["spans"])
    return ShardContent(spans, body["repeated_names"], body["ends_early"])


def _read_entry(entry: ShardEntry, told: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return told(json.loads(storage.read(entry.uri)))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{entry.uri} is damaged: remove it, and the shard is read again") from error
