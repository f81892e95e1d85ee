"""A span whose images are being read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import NamedTuple

import pyarrow as pa

from pipeline.engine.redo import kept, read_on
from pipeline.engine.shard_stream import ShardStream
from pipeline.output.receipts import Reading
from pipeline.output.span_file import SpanFacts
from pipeline.plan.names import span_name
from pipeline.plan.rows import Redo
from pipeline.source.fetch import fetched
from pipeline.source.item import Item


class OpenSpan:
    """A span whose images are being read: take all `items`, in order; then `close` says where the span stands.

    Items have bytes, or the reason why there are none. `before` holds the finished rows that are kept. Their images and
    the forgotten ones are `undone`: they come without bytes and are not decoded.
    """

    def __init__(
        self, facts: SpanFacts, items: Iterator[Item], before: pa.Table | None, forgotten: Collection[str] = ()
    ) -> None:
        self.facts, self.before = facts, before
        self.undone = frozenset(before["uri"].to_pylist() if before is not None else ()).union(forgotten)
        self.items = fetched(items, self.undone)

    def close(self) -> tuple[SpanFacts, Reading]:
        """What is known once all items are taken; counts of the facts are filled in when the span is written."""
        return self.facts, Reading()


class FinishedSpan(NamedTuple):
    """What is in the file of a span that is to be written again."""

    facts: SpanFacts
    rows: pa.Table


class OpenShardSpan(OpenSpan):
    """The next `size` images of a shard, which may be fewer."""

    def __init__(
        self, stream: ShardStream, start: int, size: int, *, takes_own_row: Callable[[], bool],
        earlier: FinishedSpan | None = None,
    ) -> None:  # fmt: skip
        """Failed rows of `earlier`, its finished file, are done again, and images that are new behind them are added.

        `takes_own_row`: whether that of a shard that cannot be read on belongs to it; else what stops it now passes.
        """
        shard = stream.shard
        facts = SpanFacts(span_name(shard.name, start), shard.uri, shard.version, start, 0, 0)
        items = _up_to_own_row(stream, takes_own_row)
        if earlier is not None:
            items = read_on(stream, items, earlier.rows, earlier.facts)
        before = None if earlier is None else kept(earlier.rows, Redo(failed=True))
        super().__init__(facts, self._counted(itertools.islice(items, size)), before, stream.forgotten)
        self.stream, self.images, self.bytes = stream, 0, 0
        self.is_new, self.told = stream.is_unread and earlier is None, stream.told
        self.begin = stream.place(start)

    def _counted(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self.images += 1
            self.bytes += item.size
            yield item

    def close(self) -> tuple[SpanFacts, Reading]:
        (offset, skip), (next_offset, next_skip) = self.begin, self.stream.place(self.facts.start + self.images)
        facts = replace(
            self.facts, images=self.images, offset=offset, skip=skip, next_offset=next_offset, next_skip=next_skip,
            repeated=self.stream.names.repeated,
        )  # fmt: skip
        self.stream.told = self.stream.passed.copy()
        unreadable = dict(self.stream.told - self.told) if self.is_new else {}
        read = next_offset - offset if self.stream.format.counts_bytes else self.bytes
        return facts, Reading(max(0, read), unreadable)


def _up_to_own_row(stream: ShardStream, takes_it: Callable[[], bool]) -> Iterator[Item]:
    yield from stream.images()
    if stream.own is not None and takes_it():
        yield from stream
