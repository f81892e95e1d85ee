"""The images of a shard, one after the other, of which the next one can be looked at.

A shard that cannot be read on ends with its *own row*: an item whose uri is the shard's, and which says why.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.plan.rows import ShardSpan, UnreadShard
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Position
from pipeline.spec import JobSpec


class ShardStream:
    """The images of a shard from a position on; it can show the next one."""

    def __init__(self, spec: JobSpec, row: ShardSpan | UnreadShard, at: Position) -> None:
        shard = row.shard
        self.shard, self.names, self.forgotten = shard, at.names, row.forgotten
        self.is_unread = isinstance(row, UnreadShard)
        self.format = FORMATS[shard.format]
        self.items = self.format.items(shard.entry, spec.wanted, at)
        self.looked_at: Item | None = None  # the next image, once it has been looked at
        self.is_over = False  # a look has found no more
        self.own: Item | None = None  # the shard's own row, once it has been looked at
        self.passed = at.passed
        self.told = at.passed.copy()  # what spans have told of it

    def peek(self) -> Item | None:
        """The next image, None at the end."""
        if self.looked_at is None and not self.is_over:
            self.looked_at = next(self.items, None)
            self.is_over = self.looked_at is None
            if self.looked_at is not None and self.looked_at.uri == self.shard.uri:
                self.own = self.looked_at
        return self.looked_at

    def place(self, images: int) -> tuple[int, int]:
        """Offset and skip of the next image; at the end those behind all `images` of the shard."""
        following = self.peek()
        return (following.offset, following.skip) if following else (self.format.end(self.shard.entry, images), 0)

    def __iter__(self) -> Iterator[Item]:
        while (item := self.peek()) is not None:
            self.looked_at = None
            yield item

    def images(self) -> Iterator[Item]:
        """Up to the shard's own row, which stays: the place behind them is where reading would go on."""
        while (item := self.peek()) is not None and item is not self.own:
            self.looked_at = None
            yield item
