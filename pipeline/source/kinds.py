"""What a source is: a loose image, or a shard."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Position, Unfetched, Wanted
from pipeline.storage import Entry

UNKNOWN_VERSION = "listed"  # the version of a remote image that a list names


@dataclass(frozen=True)
class LooseImage:
    """One image that is an object of its own; `key` is its path below the input as the user gave it.

    `kept` is what a list says beside it of the columns to keep, as JSON; empty for nothing.
    """

    entry: Entry
    key: str
    kept: str = ""

    def items(self, _: Wanted) -> Iterator[Item]:
        """The image, to be fetched."""
        yield Item(self.entry.uri, self.key, Unfetched(self.entry.uri), json.loads(self.kept) if self.kept else {})


@dataclass(frozen=True)
class Shard:
    """One object that holds many images, and the name of its format in `FORMATS`."""

    entry: Entry
    format: str

    def items(self, wanted: Wanted) -> Iterator[Item]:
        """Its images from the first on."""
        return FORMATS[self.format].items(self.entry, wanted, Position())


Source = LooseImage | Shard
