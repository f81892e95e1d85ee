"""Rows of the dataset: what one worker is handed at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.storage import Entry

REOPENED = "0" * 8  # stands for the version in the entry of a shard that is being read again


@dataclass(frozen=True)
class Redo:
    """Which rows of a finished span are computed again; its other rows are copied.

    The failed ones if `failed`, and those of the images in `uris`, which changed since the file had this `version`.
    """

    failed: bool = False
    uris: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True)
class LooseSpan:
    """Loose images: rows [start, stop) of a plan part, whose URI is `part`. `version` is that of all of them.

    Of every kind of row, the uris in `forgotten` get no row in the output; of a shard they are all that there are.
    """

    name: str
    version: str
    part: str
    start: int
    stop: int
    redo: Redo | None = None
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardRef:
    """A shard as a worker finds it: its file, its format, and its part of its spans' names."""

    uri: str
    size: int
    version: str
    format: str
    name: str

    @property
    def entry(self) -> Entry:
        """The file."""
        return Entry(self.uri, self.size, self.version)


@dataclass(frozen=True)
class ShardSpan:
    """Images [start, stop) of a shard that was read to its end before; `offset` and `skip` are its position."""

    shard: ShardRef
    start: int
    stop: int
    offset: int
    skip: int
    forgotten: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardState:
    """How many images a version of a shard holds; `name` is the shard's, `version` an 8-character digest."""

    name: str
    version: str
    images: int

    @property
    def is_reopened(self) -> bool:
        """Whether it stands for no version, as the shard is being read again."""
        return self.version == REOPENED


@dataclass(frozen=True)
class UnreadShard:
    """A shard, or the rest of one, that its reader cuts into spans as it passes.

    At most `most` images of it are wanted (None: all). The plan entry that it gets at its end has this `number`;
    `entered` is what the latest one says, if there is one, so that a second look adds no second entry.
    `retry_failed` does the failed rows of its finished spans again. Files of it are finished up to some image below
    `finished`, of whatever version.
    """

    shard: ShardRef
    number: int = 0
    entered: ShardState | None = None
    most: int | None = None
    retry_failed: bool = False
    forgotten: tuple[str, ...] = ()
    finished: int = 0


Row = LooseSpan | ShardSpan | UnreadShard


def to_json(row: Row) -> str:
    """A row on its way to a worker."""
    return json.dumps({"row": type(row).__name__, **asdict(row)})


def from_json(text: str) -> Row:
    """The inverse of `to_json`."""
    raw = json.loads(text)
    kind = KINDS[raw.pop("row")]
    return kind(**{name: NESTED[name](value) if name in NESTED else value for name, value in raw.items()})


def _redo(raw: Mapping[str, Any] | None) -> Redo | None:
    return Redo(raw["failed"], tuple(raw["uris"]), raw["version"]) if raw is not None else None


def _shard(raw: Mapping[str, Any]) -> ShardRef:
    return ShardRef(**raw)


def _state(raw: Mapping[str, Any] | None) -> ShardState | None:
    return ShardState(**raw) if raw is not None else None


KINDS: dict[str, Callable[..., Row]] = {kind.__name__: kind for kind in (LooseSpan, ShardSpan, UnreadShard)}
NESTED: dict[str, Callable[[Any], object]] = {  # of types that are not JSON's
    "redo": _redo, "shard": _shard, "entered": _state, "forgotten": tuple,
}  # fmt: skip
