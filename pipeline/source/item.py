"""An image between its shard or list and the decoder, and what a job takes from every shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.source.passed import PHOTOS

LARGEST = 1 << 30  # bytes of a file that may be an image; a larger one would exhaust the memory of a worker
Kept = Mapping[str, object]  # values kept beside an image, by column: Python's, or arrays of one value


@dataclass(frozen=True)
class Unfetched:
    """The bytes of an image that is an object of its own; `named`: errors name it, because the row's uri does not."""

    uri: str
    named: bool = False


@dataclass
class Item:
    """One image: its bytes, where to fetch them, or the reason why there are none; and its place in the shard.

    A reason that is a ValueError says that the bytes are there and damaged (`decode_error`), any other that they could
    not be had (`fetch_error`).
    `uri` and `key` are the row's. `offset` and `skip` are the position (see `Position`) from which reading begins
    with this image.
    """

    uri: str
    key: str
    data: bytes | Unfetched | Exception
    kept: Kept = field(default_factory=dict)
    offset: int = 0
    skip: int = 0

    @property
    def size(self) -> int:
        """Bytes that the image takes in its shard, as far as one knows; of one that lies elsewhere there is the URI."""
        if isinstance(self.data, bytes):
            return len(self.data)
        return len(self.data.uri) if isinstance(self.data, Unfetched) else 0


class Names:
    """Member names made unique: a repeated one gets `~2`, `~3`, ...; `used` may be filled from rows written before."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.repeated = False

    def copy(self) -> Names:
        """The same names, to which others are added apart."""
        found = Names()
        found.used, found.repeated = set(self.used), self.repeated
        return found

    def unique(self, name: str) -> str:
        """The name itself the first time, then with a suffix."""
        candidate, count = name, 1
        while candidate in self.used:
            count += 1
            candidate = f"{name}~{count}"
        self.repeated |= count > 1
        self.used.add(candidate)
        return candidate


@dataclass
class Position:
    """Where reading a shard begins: `offset` in the format's own unit, then `skip` images to pass by.

    `names` are the members met before that place, `passed` the photos passed by, by ending: reading adds to both.
    """

    offset: int = 0
    skip: int = 0
    names: Names = field(default_factory=Names)
    passed: Counter[str] = field(default_factory=Counter)


class NoImage(ConfigError):
    """A shard has nothing that would be an image, or is `empty`; `types` are those of the kept columns all the same."""

    def __init__(self, message: str, types: Mapping[str, pa.DataType], *, empty: bool = False) -> None:
        super().__init__(message)
        self.types, self.empty = types, empty


@dataclass(frozen=True)
class Wanted:
    """What a job takes from every shard.

    `endings` are the file endings of images, lower case, without dot. `image_column` is the one Parquet column or
    member ending that is the image (None: found by looking), `keep` the columns or member endings to carry along.
    `types` are the kept columns' types in the first shard, which decides for all; empty until it has been looked at.
    """

    endings: frozenset[str]
    image_column: str | None = None
    keep: tuple[str, ...] = ()
    types: Mapping[str, pa.DataType] = field(default_factory=dict)

    def is_image(self, ending: str) -> bool:
        """Whether a sample's member with this ending is an image; of `mask.png` only `image_column` says so."""
        return ending == self.image_column if self.image_column else ending.lower() in self.endings

    def passes_photo(self, ending: str) -> bool:
        """Whether a member with this ending is a photo that is neither taken nor kept, as it cannot be read here."""
        photo = f".{ending.lower()}" in PHOTOS and ending not in self.keep
        return photo and not self.image_column and not self.is_image(ending)
