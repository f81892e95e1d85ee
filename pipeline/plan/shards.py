"""The plan of shards: each is its own plan until a reader has seen its end and added its entry."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from pipeline import storage
from pipeline.output.ledger import Ledger
from pipeline.plan import entry_file
from pipeline.plan.entry_file import ShardEntry
from pipeline.plan.expected import spans_of
from pipeline.plan.forgotten import Forgotten
from pipeline.plan.names import last_spans, shard_name, short_version, span_name
from pipeline.plan.rows import Row, ShardRef, ShardSpan, ShardState, UnreadShard
from pipeline.source.kinds import Shard


class ShardPlan:
    """The shards of an output: their entries, and those that this run was asked for."""

    def __init__(
        self, ledger: Ledger, span_size: int, forgotten: Forgotten, *, retry_failed: bool, is_second_pass: bool
    ) -> None:
        self.ledger, self.span_size, self.forgotten, self.retry_failed = ledger, span_size, forgotten, retry_failed
        self.is_second_pass = is_second_pass
        self.entries: dict[str, ShardEntry] = {}
        self.met: set[str] = set()  # shards of this listing
        self.due: dict[str, str] = {}  # URIs of those that the output should hold (with --limit not all), by name
        self.planned: dict[str, int] = {}  # images of every shard that earlier runs have planned, once they are counted
        self.stopped: dict[str, ShardState] = {}  # what --limit lets in of shards that have no entry

    @functools.cached_property
    def last(self) -> dict[str, int]:
        """Where the last finished span of every shard begins."""
        return last_spans(self.ledger.files)

    def count_planned(self) -> None:
        """Count the images planned of every shard: as its entry says, or up to the end of its last span."""
        names = {shard: span_name(shard, start) for shard, start in self.last.items()}
        seen = self.ledger.seen_of(names.values())
        self.planned = {shard: entry.images for shard, entry in self.entries.items()}
        for shard, name in names.items():
            self.planned[shard] = max(self.planned.get(shard, 0), self.last[shard] + seen[name].images)

    def meet(self, shard: Shard) -> ShardRef | None:
        """What a listed shard is to a worker; None for one that was listed before, or is gone and has rows."""
        name = shard_name(shard.entry.uri)
        is_gone = shard.entry.version == storage.MISSING
        if name in self.met or (is_gone and (name in self.entries or name in self.last)):
            return None
        self.met.add(name)
        return ShardRef(shard.entry.uri, shard.entry.size, shard.entry.version, shard.format, name)

    def is_read(self, shard: ShardRef) -> bool:
        """Whether this very version of a shard was read to its end."""
        entry = self.entries.get(shard.name)
        return entry is not None and entry.version == short_version(shard.version)

    def rows(self, shard: ShardRef) -> Iterator[Row]:
        """An unread or changed shard whole; of a finished one what is missing."""
        self.due[shard.name] = shard.uri
        entry = self.entries.get(shard.name)
        if entry is None or not self.is_read(shard) or (self.retry_failed and self._has_failed(entry)):
            yield self._unread(shard)
        else:
            yield from self._missing(shard, entry)

    def first_rows(self, shard: ShardRef, most: int) -> Iterator[Row]:
        """The first `most` images of a shard of which this version was not read to its end, if any is not finished."""
        self.due[shard.name] = shard.uri
        stop = ShardState(shard.name, short_version(shard.version), most)
        self.stopped[shard.name] = stop
        names = spans_of(stop, self.span_size)
        if all(name in self.ledger.files for name in names):
            seen = self.ledger.seen_of(names).values()
            images = sum(found.images for found in seen if found.version == shard.version)
            if images == most and not (self.retry_failed and self._has_failed(stop)):
                return
        yield self._unread(shard, most)

    def left(self) -> Iterator[Row]:
        """What is missing of shards that the listing did not have and that are there: they were another run's input."""
        for entry in list(self.entries.values()):
            if entry.name not in self.met and self._lacking(entry):
                uri, format_ = entry_file.origin_of(entry)
                found = storage.stat(uri)
                if found is not None:
                    yield from self.rows(ShardRef(uri, found.size, found.version, format_, entry.name))

    def _unread(self, shard: ShardRef, most: int | None = None) -> UnreadShard:
        entry = self.entries.get(shard.name)
        number, entered = (entry.number + 1, entry.state) if entry is not None else (0, None)
        finished = self.last[shard.name] + 1 if shard.name in self.last else 0
        return UnreadShard(shard, number, entered, most, self.retry_failed, self._forgotten(shard), finished)

    def _forgotten(self, shard: ShardRef) -> tuple[str, ...]:
        return self.forgotten.of(shard.name, {shard.uri: shard.version})

    def _has_failed(self, state: ShardState) -> bool:
        finished = [name for name in spans_of(state, self.span_size) if name in self.ledger.files]
        return any(seen.failed for seen in self.ledger.seen_of(finished).values())

    def _lacking(self, entry: ShardEntry) -> set[str]:
        """Spans of a shard that are not there, or are known to be of another version."""
        expected = spans_of(entry, self.span_size)
        missing = {name for name in expected if name not in self.ledger.files}
        seen = {name for name in expected if self.ledger.is_seen(name)}
        return missing | {name for name in seen if not expected[name].fits(self.ledger.seen[name])}

    def _missing(self, shard: ShardRef, entry: ShardEntry) -> Iterator[Row]:
        lacking = self._lacking(entry)
        if not lacking:
            return
        content = entry_file.read_shard_entry(entry)
        last = content.spans[-1]
        # What a repeated member is called depends on all before it, so the whole shard is walked again. So it is where
        # the last span is lacking of a shard that could not be read on, as by now there may be more; and where a span
        # could not be read just now, as a walk can tell what becomes of it.
        may_go_on = content.ends_early and span_name(entry.name, last.start) in lacking
        if content.repeated_names or may_go_on or self.is_second_pass:
            yield self._unread(shard)
            return
        forgotten = self._forgotten(shard)
        for span in content.spans:
            if span_name(entry.name, span.start) in lacking:
                yield ShardSpan(shard, span.start, span.start + span.images, span.offset, span.skip, forgotten)
