"""What the plan wants to be in `data/`: every span by its name, with how many images and of which version."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from pipeline.output.ledger import Seen
from pipeline.plan.loose import PlannedSpan
from pipeline.plan.names import shard_of, short_version, span_name
from pipeline.plan.rows import ShardState


@dataclass(frozen=True)
class Expected:
    """A span that the plan wants: how many images, of which version of its source; of shards the version's digest."""

    images: int
    version: str
    is_of_shard: bool

    def fits(self, found: Seen) -> bool:
        """Whether a file is the one wanted, by its source version and number of images."""
        version = short_version(found.version) if self.is_of_shard else found.version
        return (version, found.images) == (self.version, self.images)


def spans_of(shard: ShardState, size: int) -> dict[str, Expected]:
    """The spans of a shard, in their order, with `size` images each at most."""
    return {
        span_name(shard.name, start): Expected(min(size, shard.images - start), shard.version, is_of_shard=True)
        for start in range(0, shard.images, size)
    }


def expected_spans(loose: Mapping[str, PlannedSpan], shards: Iterable[ShardState], size: int) -> dict[str, Expected]:
    """Every span that the plan wants."""
    expected = {name: Expected(p.span.images, p.version, is_of_shard=False) for name, p in loose.items()}
    for shard in shards:
        expected |= spans_of(shard, size)
    return expected


def surplus_spans(finished: Iterable[str], expected: Collection[str], shards: Collection[str]) -> set[str]:
    """Those of these spans that lie behind the end of a shard that shrank; `shards` names those with an entry."""
    return {name for name in finished if name not in expected and shard_of(name) in shards}
