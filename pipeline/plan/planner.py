"""Sources become rows of the dataset: what is not finished, as soon as it is known."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import ConfigError
from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan import files
from pipeline.plan.forgotten import Forgotten
from pipeline.plan.loose import LoosePlan
from pipeline.plan.rows import Row, ShardRef
from pipeline.plan.shards import ShardPlan
from pipeline.source.item import Wanted
from pipeline.source.kinds import LooseImage, Shard, Source

CHUNK = 1000  # sources compared with the plan at a time: a page of a listing
MOST_LOOSE = 50_000_000  # images that a driver plans, in some 3 GB (docs/performance.md)


@dataclass(frozen=True)
class PlanSettings:
    """What a planner is to go by: images a span, what is taken of shards, and the flags that change what is planned.

    `is_second_pass`: this run has planned all of it before, and something is missing.
    """

    span_size: SpanSize
    wanted: Wanted
    limit: int | None = None
    retry_failed: bool = False
    is_second_pass: bool = False


class Planner:
    """Plans one pass over the sources. `loose` and `shards` say at any moment what the output should hold by then.

    `before_writing` is called before each part of the plan is written; what it raises ends the planning.
    """

    def __init__(
        self, place: Place, ledger: Ledger, settings: PlanSettings, before_writing: Callable[[], object] = lambda: None
    ) -> None:
        self.place, self.settings = place, settings
        self.forgotten = Forgotten()
        self.loose = LoosePlan(place, ledger, settings.span_size, self.forgotten, before_writing)
        self.shards = ShardPlan(
            ledger,
            settings.span_size.shard,
            self.forgotten,
            retry_failed=settings.retry_failed,
            is_second_pass=settings.is_second_pass,
        )
        self.in_shards = 0  # images of shards, where --limit has them counted: planned by earlier runs, and by this one

    def learn(self) -> None:
        """Take in what the plan holds by now."""
        found = files.listing(self.place)
        self.shards.entries = found.shards
        self.forgotten.learn(found.forgotten)
        self.loose.learn(found.parts)
        self.loose.check_whole()

    def rows(self, sources: Iterable[Source]) -> Iterator[Row]:
        """Rows that are not finished: shards as they are met, new loose images once their part is written."""
        self.learn()
        if self.settings.limit is not None:
            self.shards.count_planned()
            self.in_shards = sum(self.shards.planned.values())
        stream = iter(sources)
        while chunk := list(itertools.islice(stream, CHUNK)):
            self._check_size()
            for source in chunk:
                if isinstance(source, Shard):
                    yield from self._shard(source)
            self.loose.meet([source for source in chunk if isinstance(source, LooseImage)])
            yield from self._plan(ended=False)
            if self._room() == 0 and self.shards.planned.keys() <= self.shards.met:
                break  # --limit is reached: the rest of a long listing can tell nothing new
        yield from self._plan(ended=True)
        yield from self.shards.left()
        self.loose.plan_changes()
        yield from self.loose.unfinished(retry_failed=self.settings.retry_failed)

    def _check_size(self) -> None:
        """Raise ConfigError before a driver runs out of memory in the middle of a listing."""
        if self.loose.images + len(self.loose.fresh) > MOST_LOOSE:
            raise ConfigError(
                f"--input: more than {MOST_LOOSE:,} loose images are more than one output can plan: put images into "
                "shards (tars of 100 MB to 1 GB), or their URIs into Parquet files, which are shards too"
            )

    def _room(self) -> int | None:
        """How many more images --limit lets in; None without it."""
        if self.settings.limit is None:
            return None
        return max(0, self.settings.limit - self.loose.images - self.in_shards)

    def _plan(self, *, ended: bool) -> Iterator[Row]:
        """Plan the new loose images in full parts, and at the listing's end those that are left."""
        while self.loose.fresh:
            size, room = self.loose.part_size, self._room()
            if room == 0:
                self.loose.fresh.clear()
            elif ended or len(self.loose.fresh) >= (size if room is None else min(size, room)):
                yield from self.loose.plan(size if room is None else room)
            else:
                return

    def _shard(self, source: Shard) -> Iterator[Row]:
        shard = self.shards.meet(source)
        if shard is None:
            return
        room = self._room()
        if room is None or self.shards.is_read(shard):
            yield from self.shards.rows(shard)
        elif most := self._let_in(source, shard, room):
            yield from self.shards.first_rows(shard, most)

    def _let_in(self, source: Shard, shard: ShardRef, room: int) -> int:
        """How many images --limit lets in of a shard not read to its end: those planned before, and new ones."""
        before = self.shards.planned.get(shard.name, 0)
        new = max(0, count_images(source, self.settings.wanted, before + room) - before) if room else 0
        self.in_shards += new
        return before + new


def count_images(shard: Shard, wanted: Wanted, most: int) -> int:
    """How many images a shard holds, counted up to `most`."""
    return sum(1 for _ in itertools.islice(shard.items(wanted), most))
