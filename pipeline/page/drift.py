"""Whether the first labels of the last run are spread over the classes as those of the run before."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from markupsafe import Markup

from pipeline.page.parts import EMPTY, html, plural, section, share, table
from pipeline.page.sample import Account
from pipeline.page.state import numbers

BINS = 10  # the classes that were most frequent before, and all others together
LIMIT = 0.2  # the usual bound: below it a population counts as the same
CHANCE = 27.88  # what chi-squared with 9 degrees of freedom exceeds once in a thousand times
SHOWN = 12


class Drift(NamedTuple):
    """The population stability index of two histograms, and what chance alone hardly ever gives."""

    psi: float
    chance: float

    @property
    def moved(self) -> bool:
        """Whether it says that the images, or the model, have changed."""
        return self.psi > max(LIMIT, self.chance)


def psi(before: Mapping[str, float], after: Mapping[str, float]) -> Drift:
    """Compare two histograms of first labels, neither of them empty; half an image is added to every bin."""
    frequent = sorted(before, key=lambda name: (-before[name], name))[: BINS - 1]
    sizes = sum(before.values()), sum(after.values())
    counts = [(before[name], after.get(name, 0)) for name in frequent]
    counts.append((sizes[0] - sum(old for old, _ in counts), sizes[1] - sum(new for _, new in counts)))
    index = 0.0
    for old, new in counts:
        was, now = ((count + 0.5) / (size + len(counts) / 2) for count, size in zip((old, new), sizes, strict=True))
        index += (now - was) * math.log(now / was)
    return Drift(index, CHANCE * (1 / sizes[0] + 1 / sizes[1]))


def drift(account: Account) -> Markup:
    """The section, once two runs have given labels."""
    told = [run for run in account.runs if numbers(run, "first_labels")]
    if len(told) < 2:
        return EMPTY
    before, after = (numbers(run, "first_labels") for run in told[-2:])
    found, sizes = psi(before, after), (int(sum(before.values())), int(sum(after.values())))
    said = "First labels have moved" if found.moved else "First labels have not moved"
    old, new = (plural(size, "image") for size in sizes)
    lead = (
        f"The population stability index is {found.psi:.2f} between {old} of the run before and {new} of the last one. "
        f"Up to {max(LIMIT, found.chance):.2f} is no drift."
    )
    shares = {name: (before.get(name, 0) / sizes[0], after.get(name, 0) / sizes[1]) for name in {*before, *after}}
    widest = sorted(shares, key=lambda name: (-abs(shares[name][1] - shares[name][0]), name))[:SHOWN]
    rows = [(name, share(shares[name][0]), share(shares[name][1])) for name in widest]
    state = html('<p class="state {}"><i aria-hidden="true"></i>{}.</p>', "warn" if found.moved else "good", said)
    heads = ("Class", "Run before", "Last run")
    return section("drift", "Drift", lead, state, table("Shares of first labels", heads, rows, range(1, 3)))
