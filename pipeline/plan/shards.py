"""The plan of shards: each is its own plan until a reader has seen its end and added its entry."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.output.ledger import Ledger
from pipeline.plan import files
from pipeline.plan.files import ShardEntry
from pipeline.plan.names import shard_name, short_version, span_name
from pipeline.plan.rows import Row, ShardRef, ShardSpan, UnreadShard
from pipeline.source.naming import Shard


class ShardPlan:
    """The shards of an output: their entries, and those that this run was asked for."""

    def __init__(self, ledger: Ledger, span_size: int, *, retry_failed: bool) -> None:
        self.ledger, self.span_size, self.retry_failed = ledger, span_size, retry_failed
        self.entries: dict[str, ShardEntry] = {}
        self.met: set[str] = set()  # shards of this listing
        self.wanted: set[str] = set()  # those of them that the output should hold (with --limit not all)

    @property
    def images(self) -> int:
        """How many images the entries speak of."""
        return sum(entry.images for entry in self.entries.values())

    def meet(self, shard: Shard) -> ShardRef | None:
        """What a listed shard is to a worker; None for one that was listed before."""
        name = shard_name(shard.entry.uri)
        if name in self.met:
            return None
        self.met.add(name)
        return ShardRef(shard.entry.uri, shard.entry.size, shard.entry.version, shard.format, name)

    def rows(self, shard: ShardRef, most: int | None) -> Iterator[Row]:
        """An unread or changed shard whole; of a finished one what is missing. `most` bounds a new shard's images."""
        self.wanted.add(shard.name)
        entry = self.entries.get(shard.name)
        if entry is None:
            yield UnreadShard(shard, most=most)
        elif entry.version != short_version(shard.version):
            yield self._again(shard, entry, most)
        elif self.retry_failed and self._has_failed(entry):
            yield self._again(shard, entry, most, retry_failed=True)
        else:
            yield from self._missing(shard, entry)

    def _again(
        self, shard: ShardRef, entry: ShardEntry, most: int | None = None, *, retry_failed: bool = False
    ) -> UnreadShard:
        most = entry.images if most is not None else None
        return UnreadShard(shard, entry.number + 1, entry.says, most, retry_failed)

    def _names(self, entry: ShardEntry) -> list[str]:
        return [span_name(entry.name, start) for start in range(0, entry.images, self.span_size)]

    def _finished(self, entry: ShardEntry) -> list[str]:
        return [name for name in self._names(entry) if name in self.ledger.files]

    def _has_failed(self, entry: ShardEntry) -> bool:
        return any(seen.ok < seen.images for _, seen in self.ledger.facts_of(self._finished(entry)))

    def _missing(self, shard: ShardRef, entry: ShardEntry) -> Iterator[Row]:
        finished = self._finished(entry)
        seen = self.ledger.seen
        outdated = {name for name in finished if name in seen and seen[name].version != shard.version}
        wanted = {name for name in self._names(entry) if name not in self.ledger.files or name in outdated}
        if not wanted:
            return
        content = files.read_shard_entry(entry)
        if content.repeated_names:
            # What a repeated member is called depends on all before it, so the whole shard is walked again.
            yield self._again(shard, entry)
            return
        for span in content.spans:
            if span_name(entry.name, span.start) in wanted:
                yield ShardSpan(shard, span.start, span.start + span.images, span.offset, span.skip)
