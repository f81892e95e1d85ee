"""Steps timed in alternating turns, so that a machine whose speed drifts is fair to all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

TURNS = 5
OURS, LIMIT, REFERENCE = "ours", "limit", "transformers"  # the parts of a step


class Spread(NamedTuple):
    """A ratio turn by turn: far apart on a busy machine."""

    least: float
    median: float
    greatest: float

    def __str__(self) -> str:
        spread = f" ({self.least:.2f} to {self.greatest:.2f})" if self.least != self.greatest else ""
        return f"{self.median:.2f}{spread}"


@dataclass(frozen=True)
class Figure:
    """Images per second of one step, median over the turns; None where nothing was compared.

    `per` says of which seconds. `limit` is what the machine allows and `share` the part of it that is reached; `ratio`
    is ours next to the reference.
    """

    step: str
    per: str
    ours: float
    limit: float | None = None
    share: Spread | None = None
    reference: float | None = None
    ratio: Spread | None = None


def in_turns(
    runs: Mapping[str, Callable[[], object]], clock: Callable[[], float] = time.process_time, turns: int = TURNS
) -> dict[str, list[float]]:
    """Seconds of each, turn by turn, after one round that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns + 1):
        for name, run in runs.items():
            began = clock()
            run()
            if turn:
                seconds[name].append(clock() - began)
    return seconds


def figure(step: str, per: str, images: int, seconds: Mapping[str, list[float]]) -> Figure:
    """From the seconds that OURS, and where they are there LIMIT and REFERENCE, took for so many images."""
    rates = {name: images / max(statistics.median(spent), 1e-9) for name, spent in seconds.items()}
    spreads = {name: _ratio(seconds[name], seconds[OURS]) for name in seconds if name != OURS}
    return Figure(
        step, per, rates[OURS], rates.get(LIMIT), spreads.get(LIMIT), rates.get(REFERENCE), spreads.get(REFERENCE)
    )


def _ratio(theirs: list[float], ours: list[float]) -> Spread:
    ratios = sorted(other / max(own, 1e-9) for other, own in zip(theirs, ours, strict=True))
    return Spread(ratios[0], statistics.median(ratios), ratios[-1])
