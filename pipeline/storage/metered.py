"""Objects in exact ranges, under a budget of bytes."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline import storage
from pipeline.storage.ranged import Seekable


class BudgetSpentError(OSError):
    """As much has been read as was allowed."""


@dataclass
class Meter:
    """Counts the bytes read and refuses those above the budget; a part's `parent` counts them too."""

    budget: int
    spent: int = 0
    parent: Meter | None = None

    def take(self, size: int) -> None:
        """Account for `size` bytes about to be read."""
        if self.spent + size > self.budget:
            raise BudgetSpentError("the reading budget is spent")
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

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what readers hand in
        size = min(len(buffer), self.size - self.position)
        if size <= 0:
            return 0
        self.meter.take(size)
        data = storage.read(self.entry.uri, self.position, self.position + size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
