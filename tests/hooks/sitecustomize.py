"""Put on PYTHONPATH by tests: makes a Python process die at a precise moment, or a decoder meet a deadly image.

DIE_AT=CALL:WHEN:NUMBER:TEXT  SIGKILL itself before or after the NUMBER-th os.CALL one of whose paths holds TEXT
DEATHS=FOLDER                 ... leaving FOLDER/PID
POISON=1                      Pillow knows images that kill the process, eat its memory, never end, or wait
GATE=FOLDER                   ... until FOLDER/open is there; FOLDER/PID says that process PID has one in hand. And for
                              who waits minutes for a decoder that never ends they pass at once
"""

import mmap
import os
import select
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn


def die() -> NoReturn:
    if deaths := os.environ.get("DEATHS"):
        open(f"{deaths}/{os.getpid()}", "w").close()
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def deadly(call: Callable[..., Any], when: str, number: int, text: str) -> Callable[..., Any]:
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += any(text in str(arg) for arg in args)
        hit = count == number and any(text in str(arg) for arg in args)
        if hit and when == "before":
            die()
        result = call(*args, **kwargs)
        if hit:
            die()
        return result

    return wrapped


def eat() -> None:
    """Take memory without end, and abort when there is none, as native libraries do."""
    held = []
    try:
        while True:
            held.append(mmap.mmap(-1, 64 << 20))
    except OSError:
        os.abort()


def hang() -> None:
    if gate := os.environ.get("GATE"):
        for name in os.listdir("/proc/self/fd"):
            open(f"{gate}/hangs-{inode(int(name))}", "w").close()
    time.sleep(3600)


def inode(descriptor: int) -> int:
    """Of a pipe it is the same at both ends; 0 for what has been closed."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0


def wait() -> None:
    gate = os.environ["GATE"]
    with open(f"{gate}/{os.getpid()}", "w"):
        while not os.path.exists(f"{gate}/open"):
            time.sleep(0.01)


DEEDS = {b"KILL-ME!": die, b"EAT-MEM!": eat, b"HANG-ON!": hang, b"WAIT-IN!": wait}


def add_poison() -> None:
    from PIL import Image, ImageFile

    class Poison(ImageFile.ImageFile):
        format = "POISON"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (8, 8)
            self.deed = DEEDS[self.fp.read(8)]

        def load(self) -> Any:
            self.deed()
            self.im = Image.core.fill("RGB", self.size, 0)
            return Image.Image.load(self)

    Image.register_open("POISON", Poison, lambda head: head[:8] in DEEDS)


def hurry(gate: str) -> None:
    class Hasty:
        """A poll object of which minutes pass at once where the other end of a pipe hangs."""

        def __init__(self) -> None:
            self.real, self.told = patient(), []

        def register(self, descriptor: int, events: int) -> None:
            self.real.register(descriptor, events)
            self.told.append(f"{gate}/hangs-{inode(descriptor)}")

        def poll(self, timeout: float) -> list[tuple[int, int]]:
            if timeout < 60_000:
                return self.real.poll(timeout)
            ready = self.real.poll(0)
            while not ready and not any(map(os.path.exists, self.told)):
                ready = self.real.poll(50)
            return ready

    patient, select.poll = select.poll, Hasty


if at := os.environ.get("DIE_AT"):
    name, moment, nth, text = at.split(":", 3)
    setattr(os, name, deadly(getattr(os, name), moment, int(nth), text))
if os.environ.get("POISON"):
    add_poison()
if gate := os.environ.get("GATE"):
    hurry(gate)
