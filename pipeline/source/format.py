"""What every kind of shard can do, and the kinds there are. A new kind is one file and one line of `FORMATS`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source.item import Item, Position, Wanted
from pipeline.source.parquet import Parquet
from pipeline.source.tar import Tar
from pipeline.source.tar_gz import TarGz
from pipeline.source.zip import Zip
from pipeline.storage import Entry
from pipeline.storage.ranged import Meter


class ShardFormat(Protocol):
    """How one kind of shard is read. Formats hold no state: one object serves all threads."""

    @property
    def endings(self) -> tuple[str, ...]:
        """File name endings, lower case, with the dot."""

    @property
    def names_repeat(self) -> bool:
        """Whether two images of a shard can have the same name, so that the names before it decide on `~2`."""

    @property
    def mark(self) -> tuple[int, tuple[bytes, ...]]:
        """Where in a file's first `BEGINNING` bytes its content says that it is of this kind, and by which of these."""

    @property
    def counts_bytes(self) -> bool:
        """Whether positions are bytes of the shard."""

    def check(self, shard: Entry, wanted: Wanted) -> dict[str, pa.DataType]:
        """The types of the kept columns. Raises ConfigError if the shard lacks what is wanted; reads little.

        Raises NoImage for an archive without an image: another one may have some.
        """

    def items(self, shard: Entry, wanted: Wanted, at: Position) -> Iterator[Item]:
        """The images from a position on, in order.

        A shard that cannot be read on ends with an item for the shard itself (its uri, no key) whose data is the
        reason and whose position is where reading would continue. Raises CredentialsLost, and ConfigError for a shard
        that contradicts the first one.
        """

    def end(self, shard: Entry, images: int) -> int:
        """The offset behind the last image of a shard of so many images."""

    def pick(self, shard: Entry, wanted: Wanted, names: set[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
        """(name, bytes) of single images by the part of their uri behind `#`, reading no more than the meter allows."""


FORMATS: dict[str, ShardFormat] = {"tar": Tar(), "parquet": Parquet(), "tar.gz": TarGz(), "zip": Zip()}


BEGINNING = 512  # bytes of a file that tell its kind


def format_by_content(beginning: bytes) -> str | None:
    """The one format that a file's first `BEGINNING` bytes speak of; None where that is none of ours, or several."""
    fitting = [name for name, form in FORMATS.items() if beginning[form.mark[0] :].startswith(form.mark[1])]
    return fitting[0] if len(fitting) == 1 else None


def format_within(entry: Entry) -> str | None:
    """The format that a file's content speaks of; None where it is none of ours. Raises as `storage.read` does."""
    return format_by_content(storage.read(entry.uri, 0, BEGINNING))


def shard_at(uri: str) -> tuple[Entry, ShardFormat] | None:
    """A shard of which only the uri was kept, and its format; None where there is none.

    Its content says the format, else its ending: it may have been read as what `--input-format` says.
    """
    entry, found = storage.stat(uri), None
    if entry is None:
        return None
    with suppress(OSError, ObjectUnreadable):
        found = format_within(entry)
    found = found or format_of(uri)
    return (entry, FORMATS[found]) if found else None


def format_of(uri: str) -> str | None:
    """The name of the format with this file ending, None if there is none."""
    file = uri.rpartition("/")[2].lower()
    fitting = [name for name, found in FORMATS.items() if file.endswith(found.endings) and not file.startswith(".")]
    return fitting[0] if fitting else None
