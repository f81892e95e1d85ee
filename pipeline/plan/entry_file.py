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
from pipeline.plan.rows import REOPENED, ShardRef, UnreadShard

T = TypeVar("T")
SHARD = re.compile(r"shard-(.+)\.(\d+)-([0-9a-f]{8})-(\d+)\.json")


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
