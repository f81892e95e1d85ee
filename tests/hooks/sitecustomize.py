"""Put on PYTHONPATH by tests: makes a Python process die at a precise moment, or a decoder meet a deadly image.

DIE_AT=CALL:WHEN:NUMBER:TEXT  SIGKILL itself before or after the NUMBER-th os.CALL one of whose paths holds TEXT
POISON=1                      Pillow knows images that kill the process, eat its memory, or never end
"""

import mmap
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn


def die() -> NoReturn:
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
    time.sleep(3600)


DEEDS = {b"KILL-ME!": die, b"EAT-MEM!": eat, b"HANG-ON!": hang}


def add_poison() -> None:
    from PIL import Image, ImageFile

    class Poison(ImageFile.ImageFile):
        format = "POISON"

        def _open(self) -> None:
            self._mode, self._size = "RGB", (8, 8)
            self.deed = DEEDS[self.fp.read(8)]

        def load(self) -> Any:
            self.deed()
            return super().load()

    Image.register_open("POISON", Poison, lambda head: head[:8] in DEEDS)


if at := os.environ.get("DIE_AT"):
    name, moment, nth, text = at.split(":", 3)
    setattr(os, name, deadly(getattr(os, name), moment, int(nth), text))
if os.environ.get("POISON"):
    add_poison()
