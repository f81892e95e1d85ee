"""The child's side: a process that decodes one image after the other for its parent, under a memory limit.

The parent sends a pickled `Order`, once; the child answers READY. Then come images: a REQUEST with the length of the
file, the buffer and the slot for its pixels (NOWHERE: no place), and where the file begins in the inbox, or PIPED, and
then the file follows. The inbox is memory that both see, for files of up to ROOM bytes: a pipe costs a page at a time.
An answer is a LENGTH, a pickled tuple (status, error, width, height, seconds, shapes), and the pixels of every shape.
Pixels of a fixed size that have a place are written there, and no shape speaks of them. Answers come in the images'
order.

The child ends when the parent closes the pipe, as every parent does that dies.
"""

from __future__ import annotations

import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.decode import resize
from pipeline.decode.decode import MAX_PIXELS, Decoded, DecodeSettings, decode
from pipeline.decode.ring import RingLayout, mapped

HEADROOM = 1 << 30  # bytes of memory a child may use beside the pixels
BYTES_PER_PIXEL = 16  # RGBA decoded, transposed, converted and resized, with the encoder's own buffers
NICE = 5  # who waits for pixels goes first: a model's thread must not queue behind its own decoders
REQUEST = struct.Struct("<Qiii")
ROOM = 1 << 20  # bytes of the inbox for one image
LENGTH = struct.Struct("<Q")
READY = LENGTH.pack(0)
NOWHERE = (-1, -1)
PIPED = -1

Views = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Order:
    """What a child is told first; `layout` says what lies in the ring, if there is one."""

    settings: DecodeSettings
    alarm_s: int  # an image that takes longer ends the child, parent or not
    inbox: int  # here and below: descriptors
    layout: RingLayout | None
    ring: int


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Decode until the parent is gone or closes the pipe."""
    order: Order = pickle.loads(_read(source, *LENGTH.unpack(_read(source, LENGTH.size))))
    settings = order.settings
    batches = order.layout.batches(mapped(order.ring, order.layout)) if order.layout else []
    inbox = mmap.mmap(order.inbox, 0)
    os.nice(NICE)
    if sys.platform == "linux":
        _limit_memory(settings.max_pixels)
    sink.write(READY)
    sink.flush()
    while True:
        length, buffer, slot, start = REQUEST.unpack(_read(source, REQUEST.size))
        data = _read(source, length) if start == PIPED else inbox[start : start + length]
        signal.alarm(order.alarm_s)
        began = time.perf_counter()
        answer = decode(data, settings.specs, settings.max_pixels, exact=settings.exact)
        signal.alarm(0)
        answer = replace(answer, seconds=time.perf_counter() - began)
        views = answer.views
        if views and (buffer, slot) != NOWHERE:
            views = _placed(answer.views, settings, [batch[slot] for batch in batches[buffer]])
        _answer(sink, answer, views)


def _placed(views: Views, settings: DecodeSettings, places: list[np.ndarray]) -> Views:
    """Write views of a fixed size to their places, in order; the others are left."""
    fixed = [view for view, spec in zip(views, settings.specs, strict=True) if spec.size is not None]
    for place, view in zip(places, fixed, strict=True):
        np.copyto(place, view)
    return tuple(view for view, spec in zip(views, settings.specs, strict=True) if spec.size is None)


def _answer(sink: BinaryIO, answer: Decoded, views: Views) -> None:
    told = (answer.status, answer.error, answer.width, answer.height, answer.seconds)
    head = pickle.dumps((*told, [view.shape for view in views]))
    sink.write(LENGTH.pack(len(head)) + head)
    for view in views:
        sink.write(np.ascontiguousarray(view).data.cast("B"))
    sink.flush()


def _read(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _limit_memory(max_pixels: int) -> None:
    _allow(_taken() + HEADROOM + BYTES_PER_PIXEL * min(max_pixels, MAX_PIXELS))
    resize.importing = _limit_moved


@contextmanager
def _limit_moved() -> Iterator[None]:
    """Torch reserves address space, some builds gigabytes of it: that comes on top of the limit."""
    limit, before = resource.getrlimit(resource.RLIMIT_AS)[0], _taken()
    _allow(resource.RLIM_INFINITY)
    try:
        yield
    except Exception:
        os._exit(1)  # no image's fault: another process tries again
    _allow(limit + _taken() - before)


def _taken() -> int:
    """Bytes of address space."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _allow(limit: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    known = [bound for bound in (limit, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(known, default=resource.RLIM_INFINITY), hard))


if __name__ == "__main__":
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a plugin that prints must not spoil the protocol
    try:
        serve(sys.stdin.buffer, answers)
    except (EOFError, BrokenPipeError):
        os._exit(0)  # nobody is left to hear of anything
