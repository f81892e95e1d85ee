"""Put on PYTHONPATH by tests: makes a Python process die at a precise moment, or a decoder meet a deadly image.

DIE_AT=CALL:WHEN:NUMBER:TEXT  SIGKILL itself before or after the NUMBER-th os.CALL one of whose paths holds TEXT
DEATHS=FOLDER                 ... leaving FOLDER/PID
POISON=1                      Pillow knows images that kill the process, eat its memory, never end, or wait
GATE=FOLDER                   ... until FOLDER/open is there; FOLDER/PID says that process PID has one in hand. And who
                              waits two minutes for a decoder is told at once that it will never end
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
        open(f"{gate}/hangs-{os.getppid()}", "w").close()
    time.sleep(3600)


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
    patient = select.select

    def hasty(readers: Any, writers: Any, others: Any, timeout: float | None = None) -> Any:
        ready, told = patient(readers, writers, others, 0 if timeout == 120 else timeout), f"{gate}/hangs-{os.getpid()}"
        while timeout == 120 and not ready[0] and not os.path.exists(told):
            ready = patient(readers, writers, others, 0.05)
        if timeout == 120 and not ready[0]:
            os.unlink(told)
        return ready

    select.select = hasty


if at := os.environ.get("DIE_AT"):
    name, moment, nth, text = at.split(":", 3)
    setattr(os, name, deadly(getattr(os, name), moment, int(nth), text))
if os.environ.get("POISON"):
    add_poison()
if gate := os.environ.get("GATE"):
    hurry(gate)
