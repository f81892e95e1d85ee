"""What is to be done: sources turned into spans, new ones planned on storage, finished ones passed by.

Loose images are listed in numbered parts, so new objects never shift spans that exist, wherever their names sort. An
image that changed is listed again in a later part and its span is written again. Shards are their own plan until a
reader has seen their end. Memory: 32 bytes per loose image, and the names of finished spans.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from pipeline import plan_parts
from pipeline.ledger import Ledger
from pipeline.plan_parts import PART_SCHEMA, PlannedSpan, ShardEntry, combined_version, short_version
from pipeline.readers import count_images
from pipeline.settings import JobSpec
from pipeline.source.naming import Listing, LooseImage, Shard
from pipeline.spans import Span, images_name, shard_name, span_name
from pipeline.storage import Entry

PART_SPANS = 64  # spans listed in one plan part, and more where they are small:
PART_IMAGES = 32_768  # as many parts to read again cost more than as many rows
CHUNK = 20_000  # sources compared with the plan at a time
MERGE = 32  # sorted arrays of digests that are looked through before they are made one


@dataclass
class Planned:
    """A span of loose images as all parts together have it: its rows, and the version its file should have."""

    part: str
    span: PlannedSpan
    version: str
    later: dict[str, str] = field(default_factory=dict)  # uri -> version, of images that changed since


class _Digests:
    """A set of texts by 16 bytes each, in sorted arrays that are merged now and then."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def add(self, texts: list[str]) -> None:
        """Take in these texts."""
        self.arrays.append(np.sort(_digests(texts)))
        if len(self.arrays) > MERGE:
            self.arrays = [np.sort(np.concatenate(self.arrays))]

    def holds(self, texts: list[str]) -> np.ndarray:
        """Per text whether it is in the set."""
        found = np.zeros(len(texts), bool)
        wanted = _digests(texts) if self.arrays else np.empty(0, "S16")
        for known in self.arrays:
            found |= known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
        return found


def _pairs(uris: list[str], versions: list[str]) -> list[str]:
    return [f"{uri}\t{version}" for uri, version in zip(uris, versions, strict=True)]


def _digests(texts: list[str]) -> np.ndarray:
    raw = [hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=15).digest() for text in texts]
    return np.array([digest + b"\1" for digest in raw], "S16")  # NumPy would strip a zero byte at the end


class Planner:
    """Iterate it for the dataset's rows. Afterwards it knows what the output should hold."""

    def __init__(
        self, sources: Listing, spec: JobSpec, ledger: Ledger, *, limit: int | None, retry_failed: bool
    ) -> None:
        self.sources, self.spec, self.ledger = sources, spec, ledger
        self.limit, self.retry_failed = limit, retry_failed
        self.parts, self.shards = plan_parts.listing(spec.output)
        self.loose: dict[str, Planned] = {}
        self.visited: set[str] = set()  # shards of this listing
        self.wanted: set[str] = set()  # those of them that the output should hold (with --limit not all)
        self.issued: set[str] = set()  # spans of loose images planned by this very run
        self.changed: dict[str, str] = {}  # uri -> version as listed now, where the plan has another
        self.latest: dict[str, str] = {}  # the same, as earlier parts of changes have it
        self.known, self.same = _Digests(), _Digests()  # loose images of the plan: uris, and uris with versions
        self.planned = sum(entry.images for entry in self.shards.values())
        for part in self.parts:
            self._learn(part)

    def __iter__(self) -> Iterator[Span]:
        """Rows that are not finished: shards as they are found, new loose images once their part is written."""
        fresh: dict[str, LooseImage] = {}
        part_size = max(PART_SPANS, PART_IMAGES // self.spec.span_size) * self.spec.span_size
        stream = iter(self.sources)
        while chunk := list(itertools.islice(stream, CHUNK)):
            for source in chunk:
                if isinstance(source, Shard):
                    yield from self._shard(source)
            fresh.update(self._compare([source for source in chunk if isinstance(source, LooseImage)]))
            while len(fresh) >= part_size:
                yield from self._plan(fresh, part_size)
            if not self._room() and self.shards.keys() <= self.visited:
                break  # --limit is reached: the rest of a long listing can tell nothing new
        while fresh:
            yield from self._plan(fresh, part_size)
        self._plan_changes()
        yield from self._unfinished_loose()

    def _room(self) -> int:
        return 1 << 62 if self.limit is None else max(0, self.limit - self.planned)

    def _learn(self, part: Entry) -> None:
        """Take in a part, our own or another run's."""
        spans, changes = plan_parts.read_part(part)
        table = plan_parts.read_images(part, ["uri", "version"])
        uris, versions = table["uri"].to_pylist(), table["version"].to_pylist()
        if uris:
            self.known.add(uris)
            self.same.add(_pairs(uris, versions))
        for span in spans:
            if changes:
                planned = self.loose[span.name]
                planned.version = span.version
                planned.later.update(zip(uris[span.start : span.stop], versions[span.start : span.stop], strict=True))
                self.latest.update(planned.later)
            else:
                self.loose[span.name] = Planned(part.uri, span, span.version)
                self.planned += span.stop - span.start

    def _compare(self, sources: list[LooseImage]) -> dict[str, LooseImage]:
        """Loose images that the plan does not know; those whose version changed are noted for later."""
        uris, versions = [s.entry.uri for s in sources], [s.entry.version for s in sources]
        known, same = self.known.holds(uris), self.same.holds(_pairs(uris, versions))
        for uri, version, was, is_same in zip(uris, versions, known, same, strict=True):
            if was and (not is_same or self.latest.get(uri, version) != version):
                self.changed[uri] = version
        return {source.entry.uri: source for source, was in zip(sources, known, strict=True) if not was}

    def _plan(self, fresh: dict[str, LooseImage], size: int) -> Iterator[Span]:
        """Write the next part with the first `size` fresh images; takes them out of `fresh`."""
        taken = list(itertools.islice(fresh.values(), min(size, self._room())))
        if not taken:
            fresh.clear()
            return
        spans = list(_cut(taken, self.spec.span_size))
        number = len(self.parts)
        if not plan_parts.write_part(self.spec.output, number, spans):
            self._adopt()
            for uri, was in zip(list(fresh), self.known.holds(list(fresh)), strict=True):
                if was:
                    del fresh[uri]
            return
        self._adopt(number)
        for source in taken:
            del fresh[source.entry.uri]
        for span, _ in spans:
            self.issued.add(span.name)
            yield self._loose_span(self.loose[span.name])

    def _adopt(self, mine: int | None = None) -> None:
        """Take in parts that have appeared: the one this run has just written, or whatever another run has."""
        if mine is not None:
            there = [*self.parts, plan_parts.find_part(self.spec.output, mine)]
        else:
            there, _ = plan_parts.listing(self.spec.output)
        for part in there[len(self.parts) :]:
            self._learn(part)
        self.parts = there

    def _plan_changes(self) -> None:
        """List the images that changed in a part of their own, by span, with the versions their spans now have."""
        while self.changed:
            spans = []
            row = 0
            for planned, rows in self._touched():
                uris = rows["uri"].to_pylist()
                versions = {**dict(zip(uris, rows["version"].to_pylist(), strict=True)), **planned.later}
                now = [self.changed.get(uri, versions[uri]) for uri in uris]
                rows = rows.set_column(2, "version", pa.array(now, pa.string()))
                rows = rows.filter(pa.array([uri in self.changed for uri in uris]))
                version = plan_parts.combined_version(uris, now)
                spans.append((PlannedSpan(planned.span.name, row, row + len(rows), version), rows))
                row += len(rows)
            mine = plan_parts.write_part(self.spec.output, len(self.parts), spans, changes=True)
            self._adopt()
            self.changed = {} if mine else {u: v for u, v in self.changed.items() if self.latest.get(u) != v}

    def _touched(self) -> Iterator[tuple[Planned, pa.Table]]:
        """Spans that hold a changed image, with all their rows; every part is read once."""
        entries = {part.uri: part for part in self.parts}
        for uri, group in itertools.groupby(self.loose.values(), key=lambda planned: planned.part):
            table = plan_parts.read_images(entries[uri])
            changed = np.array([one in self.changed for one in table["uri"].to_pylist()])
            for planned in group:
                if changed[planned.span.start : planned.span.stop].any():
                    yield planned, table.slice(planned.span.start, planned.span.stop - planned.span.start)

    def _unfinished_loose(self) -> Iterator[Span]:
        there = [n for n, p in self.loose.items() if n in self.ledger.files and (p.later or self.retry_failed)]
        seen = dict(self.ledger.look(there))
        for name, planned in self.loose.items():
            if name in self.issued:
                continue
            if name not in self.ledger.files:
                yield self._loose_span(planned)
            elif name in seen and planned.later and seen[name].version != planned.version:
                yield self._loose_span(planned, redo="changed", changed=tuple(sorted(planned.later)))
            elif name in seen and self.retry_failed and seen[name].ok < seen[name].images:
                yield self._loose_span(planned, redo="failed")

    def _loose_span(self, planned: Planned, *, redo: str = "", changed: tuple[str, ...] = ()) -> Span:
        span = planned.span
        return Span(
            "images", planned.part, span.name, planned.version, span.start, span.stop, redo=redo, changed=changed
        )

    def _shard(self, source: Shard) -> Iterator[Span]:
        """An unread shard whole; of a finished one the spans that are missing."""
        name = shard_name(source.entry.uri)
        if name in self.visited:
            return
        self.visited.add(name)
        entry = self.shards.get(name)
        if entry is None and self._room() == 0:
            return
        self.wanted.add(name)
        if entry is not None and entry.version == short_version(source.entry.version):
            yield from self._missing(source, entry)
        elif entry is not None:
            yield self._unread(source, entry, most=entry.images if self.limit is not None else 0)
        else:
            most = 0
            if self.limit is not None:
                most = count_images(source, self.spec.wanted, self._room())
                self.planned += most
            yield self._unread(source, None, most=most)

    def _unread(self, source: Shard, entry: ShardEntry | None, *, most: int = 0, redo: str = "") -> Span:
        shard = source.entry
        number, known = (entry.number + 1, entry.told) if entry else (0, "")
        return Span(
            source.format, shard.uri, shard_name(shard.uri), shard.version, 0, None, shard.size, redo=redo, most=most,
            number=number, known=known,
        )  # fmt: skip

    def _missing(self, source: Shard, entry: ShardEntry) -> Iterator[Span]:
        names = [span_name(entry.name, start) for start in range(0, entry.images, self.spec.span_size)]
        there = [name for name in names if name in self.ledger.files]
        if self.retry_failed and any(seen.ok < seen.images for _, seen in self.ledger.look(there)):
            yield self._unread(source, entry, redo="failed", most=entry.images if self.limit is not None else 0)
            return
        version = source.entry.version
        stale = {n for n in there if n in self.ledger.seen and self.ledger.seen[n].version != version}
        wanted = {name for name in names if name not in self.ledger.files or name in stale}
        if not wanted:
            return
        body = plan_parts.read_shard_entry(entry)
        if body["repeated_names"]:
            # What a repeated member is called depends on all before it, so the whole tar is walked again.
            yield self._unread(source, entry)
            return
        for piece in body["spans"]:
            if span_name(entry.name, piece["start"]) in wanted:
                yield Span(
                    source.format, source.entry.uri, entry.name, version, piece["start"],
                    piece["start"] + piece["images"], source.entry.size, piece["offset"], piece["skip"],
                )  # fmt: skip


def _cut(sources: list[LooseImage], size: int) -> Iterator[tuple[PlannedSpan, pa.Table]]:
    """Spans of `size` images with their rows in the part."""
    for start in range(0, len(sources), size):
        piece = sources[start : start + size]
        uris, versions = [s.entry.uri for s in piece], [s.entry.version for s in piece]
        name = images_name(uris)
        columns = [uris, [s.key for s in piece], versions, [name] * len(piece)]
        table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=PART_SCHEMA)
        yield PlannedSpan(name, start, start + len(piece), combined_version(uris, versions)), table
