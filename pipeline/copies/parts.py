"""A copy and its files: each of them says in its metadata which rows of which span files it holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable, is_pyarrows
from pipeline.output.bound import output_above
from pipeline.output.place import Place
from pipeline.storage import Entry

META = b"beit"
MARK, MARK_SCHEMA = "_compact.json", 1
NAME = re.compile(r"part-(\d{5,})\.parquet")


class ChangedError(ObjectUnreadable):
    """A file is not what it was when it was listed: another process works on it."""


class Piece(NamedTuple):
    """Rows [start, stop) of a span's file of this version, which has `rows` of them.

    `forgotten` is how many images had been taken out of that file.
    """

    span: str
    version: str
    start: int
    stop: int
    rows: int
    forgotten: int


@dataclass(frozen=True)
class Part:
    """A file of a copy; `lost` are its rows whose picture could not be read."""

    entry: Entry
    pieces: tuple[Piece, ...]
    lost: int = 0

    @property
    def rows(self) -> int:
        """Rows of the file."""
        return sum(piece.stop - piece.start for piece in self.pieces)

    @staticmethod
    def said(pieces: tuple[Piece, ...], lost: int) -> dict[bytes, bytes]:
        """The metadata of a file that holds these."""
        return {META: json.dumps({"pieces": pieces, "lost": lost}).encode()}


@dataclass(frozen=True)
class Copy:
    """A folder or prefix with the rows of an output, `images`: and with their pictures."""

    root: str
    output: str
    images: bool

    @staticmethod
    def at(dest: str) -> Copy | None:
        """The copy in a folder, None where there is none. Raises ConfigError for one of another version."""
        root = storage.absolute(dest).rstrip("/")
        try:
            raw = json.loads(storage.read(storage.join(root, MARK)))
            if raw["schema"] == MARK_SCHEMA:
                return Copy(root, raw["output"], raw["images"])
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{dest}: its {MARK} is damaged, choose another folder") from error
        raise ConfigError(
            f"{dest} has layout {raw['schema']}, this version writes {MARK_SCHEMA}: choose another folder"
        )

    def begin(self) -> None:
        """Mark the folder as this copy's. Raises ConfigError if it is another's, or holds Parquet files of others.

        Also for a new one in another output or copy, which would find files that are not its own.
        """
        entry = next(self._entries(), None)  # before the mark, which another compaction may be making now
        there = Copy.at(self.root)
        if there is None:
            if entry is not None:
                raise ConfigError(f"{self.root} is not empty ({entry.uri}): choose a folder of its own")
            if above := owner_above(Place(self.root)):
                raise ConfigError(f"{self.root} lies in {above}: choose a folder of its own")
            about = {"schema": MARK_SCHEMA, **asdict(self)}
            del about["root"]
            storage.create(storage.join(self.root, MARK), json.dumps(about).encode())
            there = Copy.at(self.root) or self
        if there.output != self.output:
            raise ConfigError(f"{self.root} is a copy of {there.output}: choose another folder")
        if there.images != self.images:
            has, advice = ("has the pictures", "give") if there.images else ("has no pictures", "leave out")
            raise ConfigError(f"{self.root} {has}: {advice} --images, or choose another folder")

    def parts(self) -> list[Part]:
        """All its files. Raises ConfigError for a Parquet file that is not ours: readers would take its rows too.

        Raises ChangedError.
        """
        return [_read(entry) for entry in self._entries() if entry.uri.endswith(".parquet")]

    def file(self, number: int) -> str:
        """The name of a file."""
        return storage.join(self.root, f"part-{number:05d}.parquet")

    def number(self, part: Part) -> int:
        """The inverse."""
        return int(part.entry.uri.rpartition("-")[2].removesuffix(".parquet"))

    def _entries(self) -> Iterator[Entry]:
        """What lies in the folder but for half-written files."""
        return (entry for entry in storage.listing(self.root) if not storage.is_half_written(entry.uri))


def owner_above(place: Place) -> str | None:
    """The nearest output, or else copy, in which a place lies, in words; None for none that this user may look into."""
    if output := output_above(place):
        return f"another output, {output.root}"
    for folder in place.above():
        with suppress(ConfigError, OSError, ObjectUnreadable):
            if copy := Copy.at(folder.root):
                return f"a copy of {copy.output}, {copy.root}"
    return None


def _read(entry: Entry) -> Part:
    try:
        with storage.open_stream(entry) as stream:
            raw = json.loads((pq.read_metadata(stream).metadata or {})[META])
        if NAME.fullmatch(entry.uri.rpartition("/")[2]):
            return Part(entry, tuple(Piece(*piece) for piece in raw["pieces"]), raw["lost"])
    except (KeyError, TypeError, ValueError, OSError, ObjectUnreadable, pa.ArrowException) as error:
        if storage.stat(entry.uri) != entry:
            raise ChangedError(f"{entry.uri} was written by another") from error
        if isinstance(error, ObjectUnreadable) or (isinstance(error, OSError) and not is_pyarrows(error)):
            raise
        raise _not_ours(entry, "is no file of this copy, or damaged: move it elsewhere") from error
    raise _not_ours(entry, "is no file of this copy: move it elsewhere")


def _not_ours(entry: Entry, why: str) -> ConfigError:
    """What to say of a Parquet file in a copy; one of an output that was begun in here is to stay."""
    if output := output_above(Place(entry.uri)):
        return ConfigError(f"an output, {output.root}, lies in this copy: choose another folder for the copy")
    return ConfigError(f"{entry.uri} {why}")
