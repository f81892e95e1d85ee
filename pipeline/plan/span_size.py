"""How many images a span has. The bounds are fixed once per output: by the model's image size, never by workers.

A span of loose images has a 256th of the images planned before it. So the first are small, which keeps all workers busy
and shows progress, later ones grow with the source, and nothing waits for the end of a listing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pipeline.log import warn
from pipeline.output.bound import SpanSize
from pipeline.source.item import Wanted
from pipeline.source.kinds import Shard

SPAN_BYTES = 256 << 20  # decoded pixels of one span at most
LEAST, LEAST_ON_ACCELERATORS = 32, 256  # images of one span; fewer would pad most of a batch
PIECES = 256  # spans that the images known so far would be cut into
MEASURED = 100  # images that stand for all
TYPICAL_IMAGE = 100_000  # bytes of one, where the first shard has none


def auto_span_size(bytes_per_image: int, least: int, in_shards: int | None) -> SpanSize:
    """Bounds from the decoded size of an image; `in_shards` is how many images shards hold (None: very many).

    Sizes are multiples of `least`, so that batches come out even, unless so many images exceed 256 MiB.
    """
    most = max(1, SPAN_BYTES // max(1, bytes_per_image))
    most = most // least * least or most
    bounds = SpanSize(most, min(least, most), most)
    return bounds if in_shards is None else SpanSize(span_size_at(bounds, in_shards), bounds.least, most)


def warn_of_padding(batch_size: int, images: int) -> None:
    """Say so where batches of this size are never full, as the smallest spans have so few images."""
    if batch_size > images:
        spans = f"spans begin at {images} image{'s' * (images != 1)}, which no batch crosses"
        warn(f"--batch-size {batch_size}: {spans}, so the rest is padding: give --span-size {batch_size} too")


def span_size_at(size: SpanSize, known: int) -> int:
    """Images of the span that begins behind `known` loose images, and of all spans of shards that hold `known`."""
    return max(size.least, min(known // PIECES, size.most) // size.least * size.least)


def loose_span_sizes(size: SpanSize, planned: int) -> Iterator[int]:
    """Images of one span after another, without end."""
    while True:
        yield (images := span_size_at(size, planned))
        planned += images


def loose_spans(size: SpanSize, images: int) -> int:
    """How many spans so many loose images take."""
    starts = itertools.accumulate(loose_span_sizes(size, 0), initial=0)
    return sum(1 for _ in itertools.takewhile(lambda start: start < images, starts))


def images_in(shards: list[Shard], wanted: Wanted) -> int:
    """About how many images shards hold: their bytes over the mean size of the first images of the first shard."""
    if not shards:
        return 0
    first = itertools.islice(shards[0].items(wanted), MEASURED)
    sizes = [item.size for item in first if not isinstance(item.data, Exception)]
    mean = sum(sizes) // len(sizes) if sizes else TYPICAL_IMAGE
    return sum(shard.entry.size for shard in shards) // max(1, mean)
