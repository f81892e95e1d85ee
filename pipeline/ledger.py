"""What is finished: one listing of `data/`, and what earlier reports have seen of each file, so that few are opened."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import output, storage
from pipeline.output import SUFFIX, SpanFacts
from pipeline.storage import Entry

SEEN_SCHEMA = pa.schema(
    [("name", pa.string()), ("file", pa.string()), ("version", pa.string()), ("images", pa.int64()), ("ok", pa.int64())]
)
SEEN = ".spans.parquet"  # beside a run's report: the files that it has seen


class Seen(NamedTuple):
    """What is known of a finished span: the version of its file, of its source, and its counts."""

    file: str
    version: str
    images: int
    ok: int


class Ledger:
    """The finished spans of an output. `files` maps their names to the version of their file."""

    def __init__(self, output_uri: str) -> None:
        self.output = output_uri
        self.files: dict[str, str] = {}
        self.sizes: dict[str, int] = {}
        self.seen: dict[str, Seen] = {}
        self.refresh()
        self._load_seen()

    def refresh(self) -> None:
        """List `data/` again."""
        root = storage.join(self.output, "data") + "/"
        self.files.clear()
        for entry in storage.listing(root):
            name = entry.uri[len(root) :]
            if name.endswith(SUFFIX) and not name.startswith("."):
                self.files[name.removesuffix(SUFFIX)] = entry.version
                self.sizes[name.removesuffix(SUFFIX)] = entry.size

    def _load_seen(self) -> None:
        for entry in storage.listing(storage.join(self.output, "runs")):
            if entry.uri.endswith(SEEN):
                with storage.open_stream(entry) as stream:
                    table = pq.read_table(stream)
                columns = [table[name].to_pylist() for name in SEEN_SCHEMA.names]
                for name, file, version, images, ok in zip(*columns, strict=True):
                    if self.files.get(name) == file:
                        self.seen[name] = Seen(file, version, images, ok)

    def note(self, facts: SpanFacts) -> None:
        """A receipt: the file as the listing now has it holds this."""
        if facts.name in self.files:
            self.seen[facts.name] = Seen(self.files[facts.name], facts.version, facts.images, facts.ok)

    def look(self, names: Iterable[str]) -> Iterator[tuple[str, Seen]]:
        """What is known of these spans; footers are read where no report has seen the file."""
        unseen = [name for name in names if not self._is_seen(name)]
        pool = ThreadPoolExecutor(storage.PARALLEL)
        try:
            for facts in pool.map(self._footer, unseen):
                self.note(facts)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupted run waits for no silent server
        for name in names:
            yield name, self.seen[name]

    def _is_seen(self, name: str) -> bool:
        return name in self.seen and self.seen[name].file == self.files.get(name)

    def _footer(self, name: str) -> SpanFacts:
        return output.read_facts(Entry(output.path_of(self.output, name), self.sizes[name], self.files[name]))

    def save(self, run: str, names: Iterable[str]) -> None:
        """Leave what this run has seen for later ones."""
        rows = [(name, *self.seen[name]) for name in sorted(names)]
        if rows:
            arrays = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), SEEN_SCHEMA, strict=True)]
            sink = pa.BufferOutputStream()
            pq.write_table(pa.Table.from_arrays(arrays, schema=SEEN_SCHEMA), sink, compression="zstd")
            storage.put(storage.join(self.output, "runs", run + SEEN), sink.getvalue().to_pybytes())
