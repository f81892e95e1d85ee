"""Objects as seekable files: read ahead in large blocks, or in exact ranges under a budget of bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass

from pipeline.errors import ObjectUnreadable
from pipeline.storage.registry import store_for
from pipeline.storage.store import Entry

BLOCK = 8 << 20  # bytes of one ranged read; two of them are held


class Seekable(io.RawIOBase):
    """A readable file of known size with a position; a subclass says in `readinto` where the bytes come from."""

    def __init__(self, size: int) -> None:
        self.size, self.position = size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        self.position = base + offset
        return self.position


class Blocks(Seekable):
    """A remote object as a stream of ranged reads, one block ahead of its reader."""

    def __init__(self, size: int, read: Callable[[int, int], bytes]) -> None:
        """`read(start, stop)` fetches a range of the object's `size` bytes; it does its own retrying."""
        super().__init__(size)
        self.read_range = read
        self.block = (0, b"")
        self.pool = ThreadPoolExecutor(1)
        self.ahead: tuple[int, Future[bytes]] | None = None

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what readers hand in
        start, data = self.block
        if not start <= self.position < start + len(data):
            if self.position >= self.size:
                return 0
            start, data = self.block = self._fetch(self.position)
        piece = memoryview(data)[self.position - start :][: len(buffer)]
        buffer[: len(piece)] = piece
        self.position += len(piece)
        return len(piece)

    def _fetch(self, start: int) -> tuple[int, bytes]:
        ahead, self.ahead = self.ahead, None
        data = ahead[1].result() if ahead and ahead[0] == start else self._range(start)
        following = start + len(data)
        if following < self.size:
            self.ahead = (following, self.pool.submit(copy_context().run, self._range, following))
        return start, data

    def _range(self, start: int) -> bytes:
        stop = min(start + BLOCK, self.size)
        data = self.read_range(start, stop)
        if len(data) != stop - start:
            raise ObjectUnreadable("it became shorter while it was read")
        return data

    def close(self) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        super().close()


class BudgetSpentError(OSError):
    """The reading budget is used up."""


@dataclass
class Meter:
    """Counts bytes read, and raises above the budget; a part's `parent` counts them too."""

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

    def __init__(self, entry: Entry, meter: Meter) -> None:
        super().__init__(entry.size)
        self.entry, self.meter = entry, meter

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # what readers hand in
        size = min(len(buffer), self.size - self.position)
        if size <= 0:
            return 0
        self.meter.take(size)
        data = store_for(self.entry.uri).read(self.entry.uri, self.position, self.position + size)
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)
