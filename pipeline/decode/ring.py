"""A ring of batch buffers in shared memory: children write pixels where the device reads them, and nothing is copied.

Who may write when. Whoever takes a buffer owns it until `release()`. A slot given to `DecodePool.submit` belongs to
the pool until its `done` is called: a child writes there, or the pool blackens it. Every other slot is the owner's, who
blackens those that stay empty, because a buffer comes back with the pixels it had. A buffer is released once all of its
slots are answered and the last reader, such as a copy to the device, has finished.
"""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


class RingSlot(NamedTuple):
    """Where an image's pixels go: the number of a buffer of the ring, and a slot of that."""

    buffer: int
    slot: int


class RingClosed(Exception):
    """No buffer can be had from this ring any more."""


@dataclass(frozen=True)
class RingLayout:
    """Where everything lies: with the file descriptor, all that a child must know.

    `views` are (height, width) of one batch each, `batch` images a buffer. A batch begins on a page of its own.
    """

    views: tuple[tuple[int, int], ...]
    batch: int
    buffers: int

    def __post_init__(self) -> None:
        """Raise ValueError for a ring that could hold nothing."""
        if not self.views or min(self.batch, self.buffers, *(side for view in self.views for side in view)) < 1:
            raise ValueError(f"a ring needs views, images and buffers of at least 1, not {self}")

    @property
    def size(self) -> int:
        """Bytes of the whole ring."""
        return self.buffers * sum(_whole_pages(math.prod(self._shape(view))) for view in self.views)

    def batches(self, memory: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """Per buffer and view a (batch, H, W, 3) uint8 array that lies in `memory`, which is (size,) uint8."""
        found: list[tuple[np.ndarray, ...]] = []
        start = 0
        for _ in range(self.buffers):
            batches = []
            for view in self.views:
                shape = self._shape(view)
                batches.append(memory[start : start + math.prod(shape)].reshape(shape))
                start += _whole_pages(math.prod(shape))
            found.append(tuple(batches))
        return found

    def _shape(self, view: tuple[int, int]) -> tuple[int, int, int, int]:
        return (self.batch, *view, 3)


class Ring:
    """`buffers` buffers of `batch` images each, black at first; any number of threads may take and release.

    `fd` is what children inherit. `memory` is the whole ring as one (size,) uint8 array that begins on a page, so that
    its pages can be locked. Memory with live views outlives `close()`.
    """

    def __init__(self, views: Sequence[tuple[int, int]], batch: int, buffers: int) -> None:
        self.layout = RingLayout(tuple(views), batch, buffers)
        self.fd = nameless_file(self.layout.size)
        self.memory = mapped(self.fd, self.layout)
        self._batches = self.layout.batches(self.memory)
        self._free = deque(range(buffers))
        self._changed = threading.Condition()
        self._closed = False

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def take(self) -> Buffer:
        """The buffer that has been free the longest; waits for one. Raises RingClosed, also in threads that wait."""
        with self._changed:
            while not self._free and not self._closed:
                self._changed.wait()
            if self._closed:
                raise RingClosed
            number = self._free.popleft()
        return Buffer(self, number, self._batches[number])

    def close(self) -> None:
        """Wake all threads that wait for a buffer, and close the descriptor; close a pool that uses this ring first."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify_all()
        os.close(self.fd)

    def blacken(self, at: RingSlot) -> None:
        """Zero the pixels of one slot, in every view."""
        for batch in self._batches[at.buffer]:
            batch[at.slot] = 0

    def give_back(self, number: int) -> None:
        """A buffer is free again; `Buffer.release` calls it."""
        with self._changed:
            self._free.append(number)
            self._changed.notify()


class Buffer:
    """A batch in the hands of whoever took it: `views` holds a (batch, H, W, 3) uint8 array per view, RGB, 0-255."""

    def __init__(self, ring: Ring, number: int, views: tuple[np.ndarray, ...]) -> None:
        self.ring, self.number, self.views = ring, number, views
        self._held = True

    def at(self, slot: int) -> RingSlot:
        """What `DecodePool.submit` takes to have an image written to this slot."""
        return RingSlot(self.number, slot)

    def blacken(self, slot: int) -> None:
        """Zero the pixels of a slot that gets no image, or whose image is not wanted."""
        self.ring.blacken(self.at(slot))

    def release(self) -> None:
        """Give the buffer back; its views must not be used afterwards. Raises ValueError the second time."""
        if not self._held:
            raise ValueError(f"buffer {self.number} was released before and may have been taken again")
        self._held = False
        self.ring.give_back(self.number)


def mapped(fd: int, layout: RingLayout) -> np.ndarray:
    """The ring behind a descriptor as a (size,) uint8 array: writes are seen by every process that maps it."""
    return np.frombuffer(mmap.mmap(fd, layout.size), np.uint8)


def nameless_file(size: int) -> int:
    """Zeroed memory that has a descriptor and no name: so nothing is left behind however the processes end."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("pixels")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, size)
    return fd


def _whole_pages(size: int) -> int:
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
