"""About how many images shards hold, from a few of them: bytes per image differ from folder to folder.

So one shard of each folder and format stands for the others there. What no opened shard stands for is taken to be as
the opened ones are all together.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from pipeline import storage
from pipeline.plan.span_size import images_in
from pipeline.source.format import FORMATS
from pipeline.source.item import Wanted
from pipeline.source.kinds import Shard

OPENED = 8  # shards
COUNTED = 1000  # images of all opened shards together; of larger ones the first stand for all
Kind = tuple[str, str]  # folder and format


class Estimate(NamedTuple):
    """About how many images each shard holds, by what so many of them hold."""

    images: Sequence[int]
    opened: int


class _Sample(NamedTuple):
    """A shard that was opened."""

    size: int
    images: float

    @property
    def each(self) -> float:
        """Bytes of the shard per image."""
        return self.size / self.images


def estimate(shards: Sequence[Shard], wanted: Wanted) -> Estimate:
    """About how many images each of these shards holds."""
    kinds: dict[Kind, list[Shard]] = {}
    for shard in shards:
        kinds.setdefault(_kind(shard), []).append(shard)
    samples, opened = _samples(kinds, wanted)
    if not samples:
        return Estimate([0] * len(shards), opened)
    together = _Sample(sum(one.size for one in samples.values()), sum(one.images for one in samples.values()))
    return Estimate([round(shard.entry.size / samples.get(_kind(shard), together).each) for shard in shards], opened)


def _samples(kinds: Mapping[Kind, Sequence[Shard]], wanted: Wanted) -> tuple[dict[Kind, _Sample], int]:
    """One shard of each kind, the largest kinds first, or another where that has no image; and how many were opened."""
    largest = sorted(kinds, key=lambda kind: -sum(shard.entry.size for shard in kinds[kind]))[:OPENED]
    look = partial(_sample, wanted=wanted, most=COUNTED // max(1, len(largest)))
    samples: dict[Kind, _Sample] = {}
    opened = 0
    for turn in range(OPENED):
        asked = [kind for kind in largest if kind not in samples and turn < len(kinds[kind])][: OPENED - opened]
        opened += len(asked)
        found = storage.in_parallel(look, [kinds[kind][turn] for kind in asked], OPENED)
        samples |= {kind: sample for kind, sample in zip(asked, found, strict=True) if sample.images}
    return samples, opened


def _kind(shard: Shard) -> Kind:
    return shard.entry.uri.rpartition("/")[0], shard.format


def _sample(shard: Shard, wanted: Wanted, most: int) -> _Sample:
    """The images of a shard: counted, or where there are more than `most`, estimated from these."""
    images, place = 0, 0
    for item in itertools.islice(shard.items(wanted), most + 1):
        if item.uri == shard.entry.uri:  # it cannot be read on
            break
        images, place = images + 1, item.offset
    if images <= most:
        return _Sample(shard.entry.size, images)
    if FORMATS[shard.format].counts_bytes and place:
        return _Sample(place, most)
    return _Sample(shard.entry.size, images_in([shard], wanted))
