"""The child's side: a process that decodes one image after the other for its parent, under a memory limit.

The parent sends a pickled `Setup`, once; the child answers READY. Then come packets of images: a COUNT; for each image
an IMAGE with the length of the file, the buffer and the slot for its pixels (NOWHERE: no slot), and where the file
begins in the inbox, or PIPED; and the piped files. The inbox is memory that both see, for packets of up to ROOM bytes:
a pipe costs a page at a time. Its first bytes say which image of a packet the child has begun with, so that the parent
knows on which one it died; and whether it is importing torch, as it does when it first needs it: then no image is at
fault.
The answer to a packet is a LENGTH, a pickled list of (status, error, width, height, seconds, shapes) per image, and the
pixels of every shape. Pixels of a fixed size that have a slot are written there, and have no shape in the answer.
Answers come in the packets' order.

The child ends when the parent closes the pipe, which also happens when the parent dies.
"""

from __future__ import annotations

import functools
import mmap
import os
import pickle
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np

from pipeline.decode import resize
from pipeline.decode.decode import MAX_PIXELS, Decoded, DecodeSettings, decode, lift_pillows_bound
from pipeline.decode.ring import RingLayout, mapped

HEADROOM = 1 << 30  # bytes of memory a child may use beside the pixels
BYTES_PER_PIXEL = 16  # RGBA decoded, transposed, converted and resized, with the encoder's own buffers
NICE = 5  # lower priority than the parent: the thread of the model must not wait for its own decoders
COUNT = struct.Struct("<Q")
IMAGE = struct.Struct("<Qiii")
BEGUN = struct.Struct("<Q")  # at the inbox's begin
LOADING = BEGUN.size  # the byte of the inbox that is 1 while torch is imported
HEAD = mmap.PAGESIZE  # bytes of the inbox before the files
ROOM = 1 << 20  # bytes of the inbox for one packet
LENGTH = struct.Struct("<Q")
READY = LENGTH.pack(0)
NOWHERE = (-1, -1)
PIPED = -1

Views = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Setup:
    """The first message to a child; `layout` describes the ring, if there is one."""

    settings: DecodeSettings
    alarm_s: int  # an image that takes longer ends the child, parent or not
    inbox: int  # here and below: descriptors
    layout: RingLayout | None
    ring: int
    loads_first: bool = False  # torch is imported before the first image, as that has failed before


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Decode until the parent is gone or closes the pipe."""
    setup: Setup = pickle.loads(_read(source, *LENGTH.unpack(_read(source, LENGTH.size))))
    settings = setup.settings
    lift_pillows_bound()
    batches = setup.layout.batches(mapped(setup.ring, setup.layout)) if setup.layout else []
    inbox = mmap.mmap(setup.inbox, 0)
    os.nice(NICE)
    if sys.platform == "linux":
        _limit_memory(settings.max_pixels)
    resize.importing = functools.partial(_loading, inbox)
    if setup.loads_first:
        resize.load()
    sink.write(READY)
    sink.flush()
    while True:
        answers: list[tuple[object, ...]] = []
        pixels: list[np.ndarray] = []
        (count,) = COUNT.unpack(_read(source, COUNT.size))
        heads = IMAGE.iter_unpack(_read(source, count * IMAGE.size))
        for number, (length, buffer, slot, start) in enumerate(heads):
            data = _read(source, length) if start == PIPED else inbox[start : start + length]
            BEGUN.pack_into(inbox, 0, number)
            answer = _decoded(data, setup)
            views = answer.views
            if views and (buffer, slot) != NOWHERE:
                views = _placed(views, settings, [batch[slot] for batch in batches[buffer]])
            answers.append((answer.status, answer.error, answer.width, answer.height, answer.seconds,
                            [view.shape for view in views]))  # fmt: skip
            pixels += views
        _answer(sink, answers, pixels)


def _decoded(data: bytes, setup: Setup) -> Decoded:
    signal.alarm(setup.alarm_s)
    began = time.perf_counter()
    answer = decode(data, setup.settings.specs, setup.settings.max_pixels, exact=setup.settings.exact)
    signal.alarm(0)
    return replace(answer, seconds=time.perf_counter() - began)


def _placed(views: Views, settings: DecodeSettings, slots: list[np.ndarray]) -> Views:
    """Write views of a fixed size to their slots, in order; the others are left."""
    fixed = [view for view, spec in zip(views, settings.specs, strict=True) if spec.size is not None]
    for slot, view in zip(slots, fixed, strict=True):
        np.copyto(slot, view)
    return tuple(view for view, spec in zip(views, settings.specs, strict=True) if spec.size is None)


def _answer(sink: BinaryIO, answers: list[tuple[object, ...]], pixels: list[np.ndarray]) -> None:
    head = pickle.dumps(answers)
    sink.write(LENGTH.pack(len(head)) + head)
    for view in pixels:
        sink.write(np.ascontiguousarray(view).data.cast("B"))
    sink.flush()


def _read(source: BinaryIO, length: int) -> bytes:
    data = source.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _limit_memory(max_pixels: int) -> None:
    _allow(_taken() + HEADROOM + BYTES_PER_PIXEL * min(max_pixels, MAX_PIXELS))


@contextmanager
def _loading(inbox: mmap.mmap) -> Iterator[None]:
    """What ends the process within the block is no image's fault, and the parent is told so."""
    inbox[LOADING] = 1
    try:
        with _limit_moved() if sys.platform == "linux" else nullcontext():
            yield
    except BaseException:  # a module may even exit
        os._exit(1)
    inbox[LOADING] = 0


@contextmanager
def _limit_moved() -> Iterator[None]:
    """Torch reserves address space, in some builds gigabytes: raise the limit by as much."""
    limit, before = resource.getrlimit(resource.RLIMIT_AS)[0], _taken()
    _allow(resource.RLIM_INFINITY)
    yield
    _allow(limit + _taken() - before)


def _taken() -> int:
    """Bytes of address space in use."""
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
        os._exit(0)  # the parent is gone
