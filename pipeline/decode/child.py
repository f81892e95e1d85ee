"""Decoding in a child process, because a native decoder can take its process down: by a crash, or by eating all memory.

The child decodes one image at a time under a memory limit. When it dies, the image it held is under suspicion and no
more: it is tried again alone in a fresh child, and only if it kills two of those is it `quarantined`. A kill of the
whole worker leaves no trace here and quarantines nobody. The child ends by itself when its parent is gone.
"""

from __future__ import annotations

import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from pipeline.decode.decode import MAX_PIXELS, Decoded, decode

if TYPE_CHECKING:
    from beit_core import PixelSpec

FRESH_TRIES = 2  # deaths of a fresh child, alone with the image, that quarantine it
PATIENCE_S = 120.0  # one image; the slowest of Pillow's test corpus within the pixel cap takes under 10
HEADROOM = 1 << 30  # bytes of memory a child may use beside the pixels
BYTES_PER_PIXEL = 16  # RGBA decoded, transposed, converted and resized, with the encoder's own buffers
LENGTH = struct.Struct("<Q")


class ChildDied(Exception):
    """The decoding process ended or hung while it held an image."""


@dataclass(frozen=True)
class DecodeSettings:
    """What a decoder needs to know: one view of each image is made per spec."""

    specs: tuple[PixelSpec, ...]
    max_pixels: int = MAX_PIXELS
    exact: bool = False


class Decoder:
    """A supervised child that decodes; use as a context manager, or let it live as long as its process."""

    def __init__(self, settings: DecodeSettings) -> None:
        self.settings = settings
        self.child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child."""
        if self.child is not None:
            self.child.kill()
            self.child.communicate()
            self.child = None

    def __call__(self, data: bytes) -> Decoded:
        """Decode one image; whatever it does to the child, an answer comes back."""
        hung = False
        for _ in range(1 + FRESH_TRIES):
            try:
                return self._ask(data)
            except TimeoutError:
                hung = True
                self.close()
            except ChildDied:
                hung = False
                self.close()
        deed = f"takes more than {PATIENCE_S:.0f} s" if hung else "kills the process that decodes it"
        return Decoded("quarantined", f"decoding this image {deed}", None, None)

    def _start(self) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
        child = subprocess.Popen(
            [sys.executable, "-m", "pipeline.decode.child", f"{2 * PATIENCE_S:.0f}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C is the parent's to handle
        )
        return child

    def _ask(self, data: bytes) -> Decoded:
        fresh = self.child is None
        self.child = child = self.child or self._start()
        try:
            if fresh:
                _send(_pipe(child.stdin), pickle.dumps(self.settings))
            _send(_pipe(child.stdin), data)
            if not select.select([_pipe(child.stdout)], [], [], PATIENCE_S)[0]:
                raise TimeoutError
            head = _receive(_pipe(child.stdout))
            status, reason, width, height, shapes = pickle.loads(head)  # from our own child, never from a file
            raw = [_receive(_pipe(child.stdout)) for _ in shapes]
        except (BrokenPipeError, EOFError, ConnectionResetError) as error:
            raise ChildDied from error
        views = tuple(np.frombuffer(view, np.uint8).reshape(shape) for view, shape in zip(raw, shapes, strict=True))
        return Decoded(status, reason, width, height, views)


def _pipe(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ChildDied
    return stream


def _send(stream: IO[bytes], data: bytes | memoryview) -> None:
    stream.write(LENGTH.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        raise EOFError
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data


def _limit_memory(max_pixels: int) -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + HEADROOM + BYTES_PER_PIXEL * min(max_pixels, MAX_PIXELS)
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _serve(alarm_s: int) -> None:
    """The child: decode until the parent closes the pipe; an image that takes `alarm_s` ends it, parent or not."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a plugin that prints must not spoil the protocol
    settings: DecodeSettings = pickle.loads(_receive(source))
    if sys.platform == "linux":
        _limit_memory(settings.max_pixels)
    while True:
        try:
            data = _receive(source)
        except EOFError:
            return
        signal.alarm(alarm_s)
        answer = decode(data, settings.specs, settings.max_pixels, exact=settings.exact)
        signal.alarm(0)
        shapes = [view.shape for view in answer.views]
        _send(sink, pickle.dumps((answer.status, answer.error, answer.width, answer.height, shapes)))
        for view in answer.views:
            _send(sink, np.ascontiguousarray(view).data.cast("B"))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
