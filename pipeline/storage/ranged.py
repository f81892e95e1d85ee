"""Remote objects as seekable files of ranged reads."""

from __future__ import annotations

import io
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from pipeline.errors import ObjectUnreadable

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

    def readinto(self, buffer: Any) -> int:
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
            self.ahead = (following, self.pool.submit(self._range, following))
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
