"""Sources become rows of the dataset: what is not finished, as soon as it is known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan import files
from pipeline.plan.loose import LoosePlan
from pipeline.plan.rows import Row
from pipeline.plan.shards import ShardPlan
from pipeline.source.format import FORMATS
from pipeline.source.item import Position, Wanted
from pipeline.source.naming import LooseImage, Shard, Source

CHUNK = 20_000  # sources compared with the plan at a time


@dataclass(frozen=True)
class Order:
    """What a planner is to go by: images a span, what is taken of shards, and the flags that change what is planned."""

    span_size: int
    wanted: Wanted
    limit: int | None = None
    retry_failed: bool = False


class Planner:
    """Plans one pass over the sources. `loose` and `shards` say at any moment what the output should hold by then."""

    def __init__(self, place: Place, ledger: Ledger, order: Order) -> None:
        self.place, self.order = place, order
        self.loose = LoosePlan(place, ledger, order.span_size)
        self.shards = ShardPlan(ledger, order.span_size, retry_failed=order.retry_failed)
        self.counted = 0  # images of shards without an entry, which --limit has had counted

    def rows(self, sources: Iterable[Source]) -> Iterator[Row]:
        """Rows that are not finished: shards as they are met, new loose images once their part is written."""
        parts, self.shards.entries = files.listing(self.place)
        self.loose.learn(parts)
        stream = iter(sources)
        while chunk := list(itertools.islice(stream, CHUNK)):
            for source in chunk:
                if isinstance(source, Shard):
                    yield from self._shard(source)
            self.loose.meet([source for source in chunk if isinstance(source, LooseImage)])
            while len(self.loose.fresh) >= self.loose.part_size:
                yield from self._plan()
            if self._room() == 0 and self.shards.entries.keys() <= self.shards.met:
                break  # --limit is reached: the rest of a long listing can tell nothing new
        while self.loose.fresh:
            yield from self._plan()
        self.loose.plan_changes()
        yield from self.loose.unfinished(retry_failed=self.order.retry_failed)

    def _room(self) -> int | None:
        """How many more images --limit lets in; None without it."""
        if self.order.limit is None:
            return None
        return max(0, self.order.limit - self.loose.images - self.shards.images - self.counted)

    def _plan(self) -> Iterator[Row]:
        room = self._room()
        most = self.loose.part_size if room is None else min(self.loose.part_size, room)
        if most == 0:
            self.loose.fresh.clear()
            return
        yield from self.loose.plan(most)

    def _shard(self, source: Shard) -> Iterator[Row]:
        shard = self.shards.meet(source)
        if shard is None:
            return
        room = self._room()
        if room is not None and shard.name not in self.shards.entries:
            if room == 0:
                return
            room = count_images(source, self.order.wanted, room)
            self.counted += room
        yield from self.shards.rows(shard, room)


def count_images(shard: Shard, wanted: Wanted, most: int) -> int:
    """How many images a shard holds, counted up to `most`."""
    items = FORMATS[shard.format].items(shard.entry, wanted, Position())
    return sum(1 for _ in itertools.islice(items, most))
