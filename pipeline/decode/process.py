"""The parent's end of one child: start it, send images, receive answers, end it. For one thread at a time."""

from __future__ import annotations

import mmap
import os
import pickle
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from pipeline.decode.child import BEGUN, COUNT, HEAD, IMAGE, LENGTH, LOADING, NOWHERE, PIPED, ROOM, Setup
from pipeline.decode.decode import Decoded, DecodeSettings
from pipeline.decode.ring import Ring, RingSlot, nameless_file

PATIENCE_S = 120.0  # one image; the slowest of Pillow's test corpus within the pixel cap takes under 10
IN_FLIGHT = 2  # packets a child holds: one in work, one waiting
SMALL = 1 << 12  # bytes read at once of an answer's head


class ChildDied(Exception):
    """The child ended while an answer was due."""


class Undecoded(NamedTuple):
    """An image to be decoded; `slot` says where its pixels go, `number` which of its owner's images it is."""

    data: bytes
    slot: RingSlot | None
    number: int = 0


class Child:
    """A process that decodes. Packets of images may be sent ahead of answers; answers come in their order."""

    def __init__(self, settings: DecodeSettings, ring: Ring | None = None, *, loads_first: bool = False) -> None:
        """Start a process, without waiting for it. Raises OSError where the system allows no more.

        With `loads_first` it is ready once it has imported torch, else it does that with its first image that needs it.
        """
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        inbox = nameless_file(HEAD + IN_FLIGHT * ROOM)
        self._inbox, self._turn = mmap.mmap(inbox, HEAD + IN_FLIGHT * ROOM), 0
        inherited = (inbox,) if ring is None else (inbox, ring.fd)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pipeline.decode.child"],  # -P: no module of the folder we are in
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is the parent's to handle
                pass_fds=inherited,
            )
        finally:
            os.close(inbox)
        self._requests, self._answers = _descriptor(self.process.stdin), _descriptor(self.process.stdout)
        self._unsent: list[memoryview] = []
        self._received = b""
        self._reading, self._both = select.poll(), select.poll()
        self._reading.register(self._answers, select.POLLIN)
        self._both.register(self._answers, select.POLLIN)
        self._both.register(self._requests, select.POLLOUT)
        layout, memory = (None, -1) if ring is None else (ring.layout, ring.fd)
        setup = Setup(settings, int(2 * PATIENCE_S), inbox, layout, memory, loads_first)
        raw = pickle.dumps(setup)
        self._send(LENGTH.pack(len(raw)), raw)

    def wait_until_ready(self) -> None:
        """Until it would begin with an image at once. Raises ChildDied, or TimeoutError after PATIENCE_S."""
        self._take(LENGTH.size, time.monotonic() + PATIENCE_S)

    def send(self, images: Sequence[Undecoded]) -> None:
        """Hand over a packet without waiting; what the pipe does not hold yet follows while `receive` waits.

        At most IN_FLIGHT packets may be without an answer: each has a part of the inbox.
        """
        heads, piped = [COUNT.pack(len(images))], []
        start = HEAD + self._turn * ROOM
        stop = start + ROOM
        self._turn = (self._turn + 1) % IN_FLIGHT
        for data, slot, _ in images:
            length = len(data)
            if start + length > stop:
                heads.append(IMAGE.pack(length, *(slot or NOWHERE), PIPED))
                piped.append(data)
                continue
            self._inbox[start : start + length] = data
            heads.append(IMAGE.pack(length, *(slot or NOWHERE), start))
            start += length
        self._send(b"".join(heads), *piped)

    @property
    def begun(self) -> int:
        """Which image of the oldest packet without an answer the child has begun with, if it has."""
        return int(BEGUN.unpack_from(self._inbox, 0)[0])

    @property
    def is_loading(self) -> bool:
        """Whether it is importing torch, or died while it did: an image in its hands has not been decoded since."""
        return bool(self._inbox[LOADING])

    def receive(self) -> list[Decoded]:
        """The answers to the oldest packet, with the views that have no slot.

        Raises ChildDied, or TimeoutError when it is at one image for PATIENCE_S, or for up to twice as long.
        """
        while True:
            begun = self.begun
            try:
                (length,) = LENGTH.unpack(self._take(LENGTH.size, time.monotonic() + PATIENCE_S))
                break
            except TimeoutError:
                if self.begun == begun:
                    raise
        deadline = time.monotonic() + PATIENCE_S
        # From our own child, never from a file.
        answers = pickle.loads(self._take(length, deadline))
        found = []
        for status, error, width, height, seconds, shapes in answers:
            views = tuple(self._pixels(shape, deadline) for shape in shapes) if shapes else ()
            found.append(Decoded(status, error, width, height, views, seconds))
        return found

    def end(self) -> None:
        """Kill it and close the pipes. May be called more than once."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
        self._inbox.close()

    def _send(self, *pieces: bytes) -> None:
        self._unsent += [memoryview(piece) for piece in pieces]
        self._write()

    def _write(self) -> None:
        """As much as the pipe takes now."""
        while self._unsent:
            try:
                written = os.writev(self._requests, self._unsent)
            except BlockingIOError:
                return
            except BrokenPipeError:
                self._unsent.clear()  # it is dead, but may have answered before: reading finds the end
                return
            while self._unsent and written >= len(self._unsent[0]):
                written -= len(self._unsent.pop(0))
            if written:
                self._unsent[0] = self._unsent[0][written:]

    def _take(self, size: int, deadline: float) -> bytes:
        """The next `size` bytes of an answer."""
        while len(self._received) < size:
            self._wait(deadline)
            piece = os.read(self._answers, SMALL)
            if not piece:
                raise ChildDied
            self._received += piece
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def _pixels(self, shape: tuple[int, ...], deadline: float) -> np.ndarray:
        pixels = np.empty(shape, np.uint8)
        raw = pixels.reshape(-1).data
        begun = self._take(min(len(raw), len(self._received)), deadline)
        raw[: len(begun)] = begun
        done = len(begun)
        while done < len(raw):
            self._wait(deadline)
            read = os.readv(self._answers, [raw[done:]])
            if not read:
                raise ChildDied
            done += read
        return pixels

    def _wait(self, deadline: float) -> None:
        """Until an answer, or the end, can be read; sends what is unsent in the meantime."""
        while self._unsent:
            ready = dict(self._poll(self._both, deadline))
            if self._requests in ready:
                self._write()
            if self._answers in ready:
                return
        self._poll(self._reading, deadline)

    def _poll(self, descriptors: select.poll, deadline: float) -> list[tuple[int, int]]:
        ready = descriptors.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise TimeoutError
        return ready


def _descriptor(pipe: IO[bytes] | None) -> int:
    """The non-blocking descriptor of a pipe from or to a child."""
    if pipe is None:
        raise ValueError("a child has a pipe either way")
    os.set_blocking(pipe.fileno(), False)
    return pipe.fileno()
