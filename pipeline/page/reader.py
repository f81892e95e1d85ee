"""Reading little of much: objects in exact ranges, under a budget of bytes that a whole report shares."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from pipeline import storage
from pipeline.blocks import Seekable

T = TypeVar("T")


class BudgetSpentError(OSError):
    """The page has read as much as it may; what is missing is shown as not available."""


@dataclass
class Meter:
    """Counts the bytes read and refuses those above the budget; a part's `parent` counts them too."""

    budget: int
    spent: int = 0
    parent: Meter | None = None

    def take(self, size: int) -> None:
        """Account for `size` bytes about to be read."""
        if self.spent + size > self.budget:
            raise BudgetSpentError("the report's reading budget is spent")
        if self.parent:
            self.parent.take(size)
        self.spent += size

    def part(self, shares: int) -> Meter:
        """One of equal shares of what is left."""
        return Meter((self.budget - self.spent) // max(shares, 1), parent=self)


class Ranges(Seekable):
    """An object as a seekable file in which every read is one ranged request of just that size."""

    def __init__(self, entry: storage.Entry, meter: Meter) -> None:
        super().__init__(entry.size)
        self.entry, self.meter = entry, meter

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self.size - self.position)
        if size <= 0:
            return 0
        self.meter.take(size)
        data = storage.read(self.entry.uri, self.position, self.position + size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)


def even(items: list[T], keep: int) -> list[T]:
    """At most `keep` of the items, evenly spread, in their order."""
    if len(items) <= keep:
        return list(items)
    return [items[place * len(items) // keep] for place in range(keep)]


def spread(stream: Iterable[T], keep: int) -> tuple[list[T], int]:
    """At most `keep` items evenly over a stream of any length, in constant memory; and that length."""
    kept: list[T] = []
    step, count = 1, 0
    for item in stream:
        if count % step == 0:
            kept.append(item)
        count += 1
        if len(kept) > 2 * keep:
            kept, step = kept[::2], step * 2
    return even(kept, keep), count


def fair_shares(sizes: list[int], total: int) -> list[int]:
    """How many of each size to take so that the sum is at most `total` and no large one starves a small one."""
    shares = [0] * len(sizes)
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    for done, place in enumerate(order):
        shares[place] = min(sizes[place], total // (len(sizes) - done))
        total -= shares[place]
    return shares


def grouped(items: Iterable[T], key: Callable[[T], str]) -> dict[str, list[T]]:
    """The items by key, keys in the order of their first item."""
    groups: dict[str, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
