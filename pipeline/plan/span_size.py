"""How many images a span has: bound once per output, from the source and the model's image size, never from workers."""

from __future__ import annotations

SPAN_BYTES = 256 << 20  # decoded pixels of one span at most
MOST, LEAST = 4096, 32  # images of one span; fewer than `LEAST` would pad most of a batch
PIECES = 32  # spans that a small source is cut into, so that it spreads and commits as it goes
TYPICAL_IMAGE = 100_000  # bytes of an image in a shard, as long as only the shard's size is known


def auto_span_size(bytes_per_image: int, images: int | None) -> int:
    """Images per span: about 256 MiB decoded at most, less for a source known to be small (`images`; None: large).

    A multiple of 32, so that batches come out even.
    """
    most = max(1, min(MOST, SPAN_BYTES // max(1, bytes_per_image)))
    if images is None:
        return most if most < LEAST else most // LEAST * LEAST
    wanted = max(LEAST, -(-images // PIECES // LEAST) * LEAST)
    return min(most, wanted)
