"""Shard entries: which shards were read to their ends, and what was in them.

A shard's counts are in its entry's *name*, so finished shards take one listing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeVar

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts
from pipeline.plan.names import short_version
from pipeline.plan.rows import REOPENED, ShardState, UnreadShard
from pipeline.storage import Entry

T = TypeVar("T")
SHARD = re.compile(r"shard-(.+)\.(\d+)-([0-9a-f]{8})-(\d+)\.json")


@dataclass(frozen=True)
class ShardEntry(ShardState):
    """What the name of an entry's file says, and the file's URI; of a shard's entries the latest number counts."""

    number: int
    file_uri: str

    @property
    def state(self) -> ShardState:
        """What it says of its shard."""
        return ShardState(self.name, self.version, self.images)

    @staticmethod
    def of(place: Place, state: ShardState, number: int) -> ShardEntry:
        """The entry that says so, whether it is there or not."""
        file = f"shard-{state.name}.{number}-{state.version}-{state.images}.json"
        return ShardEntry(state.name, state.version, state.images, number, place.plan_file(file))

    @staticmethod
    def found(file: Entry) -> ShardEntry | None:
        """The one whose file this is, None for another file of the plan."""
        match = SHARD.fullmatch(file.uri.rpartition("/")[2])
        if match is None:
            return None
        name, number, version, images = match.groups()
        return ShardEntry(name, version, int(images), int(number), file.uri)


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


class Origin(NamedTuple):
    """Where a shard was, and the name of its format."""

    uri: str
    format: str


def write_shard_entry(place: Place, row: UnreadShard, content: ShardContent) -> None:
    """Add the entry of a shard that was read to its end."""
    images = sum(span.images for span in content.spans)
    _write_entry(place, row, short_version(row.shard.version), images, content)


def known_before(place: Place, row: UnreadShard) -> Known | None:
    """What the plan has of this very version of a shard that is read again; None where it has nothing."""
    state = row.entered
    if state is None or state.version not in (short_version(row.shard.version), REOPENED):
        return None
    entry = ShardEntry.of(place, state, row.number - 1)
    of, content = _read_entry(entry, lambda body: (body["version"], _content(body)))
    if of != row.shard.version:
        return None
    return Known(entry.images, ends_early=content.ends_early, reopened=entry.is_reopened)


def reopen_shard(place: Place, row: UnreadShard, known: Known) -> UnreadShard:
    """Before a span is written that may go on behind the end of a shard that ended early: the row from then on.

    Should the run die before the next entry, the shard would seem finished without the images that are found there by
    now, and their spans surplus. So an entry that stands for no version takes the place of the one before.
    """
    content = ShardContent((), repeated_names=False, ends_early=known.ends_early)
    entry = _write_entry(place, row, REOPENED, known.images, content)
    return replace(row, number=row.number + 1, entered=entry.state)


def _write_entry(place: Place, row: UnreadShard, version: str, images: int, content: ShardContent) -> ShardEntry:
    shard = row.shard
    entry = ShardEntry.of(place, ShardState(shard.name, version, images), row.number)
    body = {
        "uri": shard.uri,
        "format": shard.format,
        "version": shard.version,
        "size": shard.size,
        "images": images,
        "repeated_names": content.repeated_names,
        "ends_early": content.ends_early,
        "spans": [asdict(span) for span in content.spans],
    }
    with place.writing():
        storage.create(entry.file_uri, json.dumps(body).encode())
    return entry


def read_shard_entry(entry: ShardEntry) -> ShardContent:
    """What the entry of a shard holds; raises StorageError where it is damaged."""
    return _read_entry(entry, _content)


def origin_of(entry: ShardEntry) -> Origin:
    """The shard that an entry was made of; raises StorageError where the entry is damaged."""
    return _read_entry(entry, lambda body: Origin(body["uri"], body["format"]))


def _content(body: Mapping[str, Any]) -> ShardContent:
    spans = tuple(PlacedSpan(**span) for span in body["spans"])
    return ShardContent(spans, body["repeated_names"], body["ends_early"])


def _read_entry(entry: ShardEntry, told: Callable[[Mapping[str, Any]], T]) -> T:
    try:
        return told(json.loads(storage.read(entry.file_uri)))
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{entry.file_uri} is damaged: remove it, and the shard is read again") from error
