"""What is finished: one listing of `data/`, and what earlier runs recorded of each file, so that few are opened."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import StorageError, is_pyarrows
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts, facts_alone, with_version
from pipeline.storage import Entry

SEEN_SCHEMA = pa.schema(
    [("name", pa.string()), ("file", pa.string()), ("version", pa.string()), ("images", pa.int64()), ("ok", pa.int64())]
)
FORGOTTEN = pa.schema([("forgotten", pa.int64()), ("cleared", pa.int64())])  # further columns where any is not 0


class Seen(NamedTuple):
    """What is known of a finished span: versions of its file and of its source, and its counts.

    Of its images, which were cut, so many are `forgotten` and have no row. It was looked through for images that the
    forgetting parts of the plan with numbers below `cleared` name, and holds none of them.
    """

    file: str
    version: str
    images: int
    ok: int
    forgotten: int = 0
    cleared: int = 0

    @property
    def failed(self) -> int:
        """Rows whose status is not ok."""
        return self.images - self.forgotten - self.ok


class Ledger:
    """The finished spans of an output. `files` maps their names to the version of their file."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.files: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.seen: dict[str, Seen] = {}
        # Source versions of spans that earlier runs have seen and that had no file when this was loaded.
        self.lost: dict[str, set[str]] = {}

    @staticmethod
    def load(place: Place) -> Ledger:
        """List `data/`, and read what earlier runs recorded of these files."""
        ledger = Ledger(place)
        ledger.refresh()
        ledger._load_seen()
        return ledger

    def refresh(self) -> None:
        """List `data/` again."""
        self.files.clear()
        for name, entry in self.place.spans():
            self.files[name] = entry.version
            self.sizes[name] = entry.size

    def _load_seen(self) -> None:
        for entry in self.place.seen_files():
            try:
                with storage.open_stream(entry) as stream:
                    table = pq.read_table(stream)
            except (ValueError, OSError, pa.ArrowException) as error:
                if isinstance(error, OSError) and not is_pyarrows(error):
                    raise
                continue  # it is damaged: footers are read instead
            if table.column_names[: len(SEEN_SCHEMA)] != SEEN_SCHEMA.names:
                continue  # it is somebody else's
            for name, file, *more in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if self.files.get(name) == file:
                    self.seen[name] = Seen(file, *more)
                elif name not in self.files:
                    self.lost.setdefault(name, set()).add(more[0])

    def note(self, entry: Entry, facts: SpanFacts, cleared: int = 0) -> None:
        """Record what a file holds as it is now: no image that forgetting parts with numbers below `cleared` name."""
        self.files[facts.name], self.sizes[facts.name] = entry.version, entry.size
        self.seen[facts.name] = _seen(entry.version, facts, cleared)

    def cleared(self, name: str) -> int:
        """The number above those of the forgetting parts that a file is known to be cleared of."""
        return self.seen[name].cleared if self.is_seen(name) else 0

    @property
    def most_cleared(self) -> int:
        """The number above those of all forgetting parts that any file is known to be cleared of."""
        return max((seen.cleared for name, seen in self.seen.items() if self.is_seen(name)), default=0)

    def seen_of(self, names: Collection[str]) -> dict[str, Seen]:
        """What is known of these spans; footers are read where no earlier run has recorded the file, and noted."""
        unseen = [name for name in names if not self.is_seen(name)]
        for entry, facts in storage.in_parallel(self._footer, unseen):
            self.note(entry, facts)
        return {name: self.seen[name] for name in names}

    def is_seen(self, name: str) -> bool:
        """Whether it is known what the file holds that the listing has."""
        return name in self.seen and self.seen[name].file == self.files.get(name)

    def entry(self, name: str) -> Entry:
        """The file of a finished span, as the listing has it."""
        return Entry(self.place.span_file(name), self.sizes[name], self.files[name])

    def _footer(self, name: str) -> tuple[Entry, SpanFacts]:
        entry, facts = with_version(self.entry(name), facts_alone)
        if facts.name != name:
            raise StorageError(f"{self.place.span_file(name)} is a copy of {facts.name}: remove it and run again")
        return entry, facts

    def save(self, run: str, names: Collection[str]) -> None:
        """Record what this run has seen, for later ones."""
        rows = [(name, *self.seen[name]) for name in sorted(names)]
        if rows:
            told = any(seen.forgotten or seen.cleared for seen in map(self.seen.__getitem__, names))
            schema = pa.schema([*SEEN_SCHEMA, *FORGOTTEN]) if told else SEEN_SCHEMA
            arrays = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), schema, strict=False)]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_arrays(arrays, schema=schema), sink, compression="zstd")
            storage.put(self.place.seen_file(run), sink.getvalue().to_pybytes())


def _seen(file: str, facts: SpanFacts, cleared: int = 0) -> Seen:
    return Seen(file, facts.version, facts.images, facts.ok, len(facts.forgotten), cleared)
