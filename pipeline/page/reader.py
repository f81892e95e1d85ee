"""Choosing a few of many, evenly and in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


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
