"""What decoding costs: CPU time per image, transfers to and from the child included, with and without `exact`."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Semaphore
from typing import TYPE_CHECKING

from pipeline.decode.decode import DecodeSettings
from pipeline.decode.pool import DecodePool, Packet
from pipeline.decode.process import Undecoded
from pipeline.decode.ring import Ring, RingSlot

if TYPE_CHECKING:
    from beit_core import PixelSpec


@dataclass(frozen=True)
class DecodeCost:
    """CPU seconds per image, medians over the turns; `exact_s` and `quick_s` with the child's and this process's part.

    `parent_s` is this process's part of `quick_s`, `ratio` the median of quick over exact, turn by turn.
    """

    exact_s: float
    quick_s: float
    parent_s: float
    ratio: float

    def __str__(self) -> str:
        return (
            f"{'decode, CPU time of child and parent':<44} {1000 * self.quick_s:>9.2f} ms/image "
            f"   --exact {1000 * self.exact_s:.2f} ms   ratio {self.ratio:.2f}"
        )


def decode_cost(files: Sequence[bytes], spec: PixelSpec, turns: int = 7) -> DecodeCost:
    """Decode all files into a ring, with and without `exact` in turns; `spec` has a fixed size. On Linux only.

    No other thread of this process may work meanwhile. Raises ValueError for a spec whose size varies.
    """
    if spec.size is None:
        raise ValueError(f"the cost is that of pixels in a ring, and {spec} has no fixed size")
    exact: list[tuple[float, float]] = []
    quick: list[tuple[float, float]] = []
    with (
        Ring([spec.size], len(files), 1) as ring,
        DecodePool(DecodeSettings((spec,), exact=True), 1, ring) as slow,
        DecodePool(DecodeSettings((spec,)), 1, ring) as fast,
    ):
        for pool in (slow, fast):
            _decode(pool, files)  # imports at the first image are not measured
        for _ in range(turns):
            exact.append(_turn(slow, files))
            quick.append(_turn(fast, files))
    ratios = [sum(ours) / sum(theirs) for ours, theirs in zip(quick, exact, strict=True)]
    return DecodeCost(
        statistics.median(map(sum, exact)),
        statistics.median(map(sum, quick)),
        statistics.median(parent for parent, _ in quick),
        statistics.median(ratios),
    )


def _turn(pool: DecodePool, files: Sequence[bytes]) -> tuple[float, float]:
    """CPU seconds per image of this process and of the pool's only child."""
    (child,) = pool.pids
    before = time.process_time(), _cpu_of(child)
    _decode(pool, files)
    after = time.process_time(), _cpu_of(child)
    return (after[0] - before[0]) / len(files), (after[1] - before[1]) / len(files)


def _decode(pool: DecodePool, files: Sequence[bytes]) -> None:
    """In packets, as a worker sends them."""
    answered = Semaphore(0)
    images = [Undecoded(data, RingSlot(0, slot)) for slot, data in enumerate(files)]
    for start in range(0, len(images), pool.packet_images):
        packet = images[start : start + pool.packet_images]
        pool.submit_packet(Packet(packet, lambda answers: answered.release(len(answers))))
    for _ in files:
        answered.acquire()


def _cpu_of(process: int) -> float:
    """CPU seconds of another process: on Linux its clock's id follows from the process id."""
    return time.clock_gettime((~process << 3) | 2)
