"""The images of a shard, one after the other, of which the next one can be looked at."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.plan.files import Known
from pipeline.plan.names import digest
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
        self.kinds = digest(spec.wanted.kinds, 8)
        self.format = FORMATS[shard.format]
        self.items = self.format.items(shard.entry, spec.wanted, at)
        self.ahead: list[Item | None] = []
        self.own: Item | None = None  # the row of a shard that cannot be read on
        self.passed = at.passed
        self.told = at.passed.copy()  # what spans have told of it

    def peek(self) -> Item | None:
        """The next image, None at the end."""
        if not self.ahead:
            self.ahead = [next(self.items, None)]
            if self.ahead[0] is not None and self.ahead[0].uri == self.shard.uri:
                self.own = self.ahead[0]
        return self.ahead[0]

    def has_ended(self, known: Known | None, start: int) -> bool:
        """Whether there is no image `start`; also where the shard's own row is in its place, and `known` has more.

        Then what is wrong will pass. Where others count as images by now, only damage tells that it is the same end.
        """
        first = self.peek()
        if first is None or known is None or first is not self.own:
            return first is None
        if known.kinds != self.kinds:
            return not isinstance(first.data, ValueError)
        return start + 1 < known.images if known.ends_early else start <= known.images

    def place(self, images: int) -> tuple[int, int]:
        """Offset and skip of the next image; at the end those behind all `images` of the shard."""
        following = self.peek()
        return (following.offset, following.skip) if following else (self.format.end(self.shard.entry, images), 0)

    def __iter__(self) -> Iterator[Item]:
        while (item := self.peek()) is not None:
            self.ahead = self.ahead[1:]
            yield item

    def images(self) -> Iterator[Item]:
        """Up to the shard's own row, which stays: the place behind them is where reading would go on."""
        while (item := self.peek()) is not None and item is not self.own:
            self.ahead = self.ahead[1:]
            yield item

    def put_back(self, items: list[Item]) -> None:
        """These come next, as if they had not been taken."""
        self.ahead = [*items, *self.ahead]
