"""Pixels to a CUDA device and answers back, on streams beside the model's, so that neither waits for the model.

A device that has failed must be asked nothing when memory is freed: torch ends the process there (`std::terminate`),
and nobody would learn why. It asks about tensors that another stream has used (`record_stream`), and about its own
pinned memory. So a batch is held here until it is answered, and answers arrive in page-locked memory of our own.
"""

from __future__ import annotations

import mmap
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import numpy as np
import torch
from torch import Tensor

from pipeline.engine.device import (
    device_failures,
    each_tensor,
    free_memory,
    lock_pages,
    readable,
    unlock_pages,
    when_done,
)
from pipeline.task import Column, Columns

LEAST = 1 << 20  # bytes of a landing
ALIGNED = 64  # bytes: where the answers of a column begin


class Transfer:
    """The streams of one predictor, what it has on the device, and the memory in which its answers arrive."""

    def __init__(self) -> None:
        self.copying, self.returning = torch.cuda.Stream(), torch.cuda.Stream()
        self._free: list[Landing] = []
        self._batches = 0  # on the device, or on their way there
        self._changed = threading.Condition()

    def bring(self, views: Sequence[Tensor], prepared: Mapping[str, Tensor]) -> OnDevice:
        """Have a batch copied; what this thread asks of the device afterwards waits for it. Raises DeviceFailed."""
        with self._changed:
            self._batches += 1
        with device_failures():  # what the batch before did wrong may come to light here
            batch = self._copied(views, prepared)
            torch.cuda.current_stream().wait_event(batch.copied)
            batch.begun.record()
        return batch

    def _copied(self, views: Sequence[Tensor], prepared: Mapping[str, Tensor]) -> OnDevice:
        with suppress(torch.OutOfMemoryError):
            return self._copy(views, prepared)
        self.make_room()
        return self._copy(views, prepared)

    def _copy(self, views: Sequence[Tensor], prepared: Mapping[str, Tensor]) -> OnDevice:
        with torch.cuda.stream(self.copying):
            # From pageable memory: the CPU waits for such copies, which therefore go before the pixels.
            there = {name: values.to("cuda", non_blocking=True) for name, values in prepared.items()}
            batch = OnDevice(self, tuple(view.to("cuda", non_blocking=True) for view in views), there)
            batch.copied.record()
        return batch

    def make_room(self) -> bool:
        """Wait until the last batch is alone on the device, and free what is unused there; whether it was not alone.

        Raises DeviceFailed.
        """
        with self._changed:
            others = self._batches > 1
            self._changed.wait_for(lambda: self._batches <= 1)
        with device_failures():
            when_done()
            free_memory("cuda")
        return others

    @contextmanager
    def fetching(self, size: int) -> Iterator[Landing]:
        """Memory for so many bytes of a batch's answers; afterwards nothing of the batch is on the device.

        The memory in which answers of a batch that failed were to arrive is not used again.
        """
        landing = self._take(size)
        try:
            yield landing
            landing.taken = 0
            with self._changed:
                self._free.append(landing)
        finally:
            with self._changed:
                self._batches -= 1
                self._changed.notify_all()

    def _take(self, size: int) -> Landing:
        with self._changed:
            for landing in self._free:
                if landing.memory.nbytes >= size:
                    self._free.remove(landing)
                    return landing
        return Landing(max(LEAST, 1 << (size - 1).bit_length()))


class OnDevice:
    """A batch on the device: it is `copied` from the caller's memory, `begun`, and `computed`; then it has `answers`.

    What threads wait for is `blocking`: they would use up a core each, which decoding needs.
    """

    def __init__(self, transfer: Transfer, views: tuple[Tensor, ...], prepared: Mapping[str, Tensor]) -> None:
        self.transfer, self.views, self.prepared = transfer, views, prepared
        self.answers: Columns = {}  # dense
        self.copied = torch.cuda.Event(blocking=True)
        self.begun = torch.cuda.Event(enable_timing=True)
        self.computed = torch.cuda.Event(enable_timing=True, blocking=True)

    def fetch(self) -> tuple[Columns, float]:
        """Wait for the batch; its answers on the CPU, and its seconds. To be called once. Raises DeviceFailed."""
        size = sum(map(_bytes, self.answers.values()))
        with device_failures(), self.transfer.fetching(size) as landing:
            self.computed.synchronize()
            seconds = self.begun.elapsed_time(self.computed) / 1000
            # Copies on the model's stream would wait for the next batch.
            with torch.cuda.stream(self.transfer.returning):
                under_way = {name: each_tensor(values, landing.place) for name, values in self.answers.items()}
                returned = torch.cuda.Event(blocking=True)
                returned.record()
            returned.synchronize()
            self.views, self.prepared, self.answers = (), {}, {}
            return {name: each_tensor(values, _kept) for name, values in under_way.items()}, seconds


class Landing:
    """Page-locked memory in which the answers of a batch arrive: into any other the CPU would have to copy them."""

    def __init__(self, size: int) -> None:
        self.memory = np.frombuffer(mmap.mmap(-1, size), np.uint8)
        self.taken = 0
        if lock_pages(self.memory, "cuda"):
            weakref.finalize(self, unlock_pages, self.memory)

    def place(self, values: Tensor) -> Tensor:
        """A copy of dense values on the device that is under way on the current stream; others as they are."""
        if values.device.type == "cpu":
            return values
        start, self.taken = self.taken, self.taken + _room(values)
        place = torch.from_numpy(self.memory[start : start + values.nbytes])
        return place.view(values.dtype).view(values.shape).copy_(values, non_blocking=True)


def _bytes(values: Column) -> int:
    """What a landing needs for a column."""
    several = [values] if isinstance(values, Tensor) else values
    return sum(_room(value) for value in several if isinstance(value, Tensor))


def _room(values: Tensor) -> int:
    return -(-values.nbytes // ALIGNED) * ALIGNED


def _kept(values: Tensor) -> Tensor:
    """A copy that stays when the landing is used again."""
    return values.clone() if values.dtype != torch.bfloat16 else readable(values)
