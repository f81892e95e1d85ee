"""What a pool has answered, by the name a test gave to the image; and images that tell which they are."""

import io
import threading
import time
from collections.abc import Callable, Collection, Hashable
from functools import partial

import numpy as np
from PIL import Image

from pipeline.decode import pool
from pipeline.decode.decode import Decoded

KILL, EAT, HANG, WAIT = b"KILL-ME!", b"EAT-MEM!", b"HANG-ON!", b"WAIT-IN!"


class Answers:
    """Collects answers from a pool's threads."""

    def __init__(self) -> None:
        self.order: list[Hashable] = []
        self.found: dict[Hashable, Decoded] = {}
        self._changed = threading.Condition()

    def of(self, name: Hashable) -> Callable[[Decoded], None]:
        """What to give to `submit` for the image of that name."""
        return partial(self._take, name)

    def of_packet(self, found: pool.Answers) -> None:
        """What to give to a packet: its images are called by their numbers."""
        for number, answer in found:
            self._take(number, answer)

    def _take(self, name: Hashable, answer: Decoded) -> None:
        with self._changed:
            self.order.append(name)
            self.found[name] = answer
            self._changed.notify_all()

    def wait(self, count: int, seconds: float = 120) -> None:
        """Until so many have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.order) >= count, seconds):
                raise TimeoutError(f"only {len(self.order)} of {count} answers came")

    def wait_for(self, names: Collection[Hashable], seconds: float = 120) -> None:
        """Until those of all these images have come."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.found.keys() >= set(names), seconds):
                raise TimeoutError(f"no answer came to {sorted(map(str, set(names) - self.found.keys()))[:5]}")

    def statuses(self) -> dict[Hashable, str]:
        return {name: answer.status for name, answer in self.found.items()}


def wait_for(what: Callable[[], object], seconds: float = 60) -> None:
    """Until it is true."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so after {seconds:.0f} s")
        time.sleep(0.005)


def colour(number: int) -> tuple[int, int, int]:
    return number % 256, number // 256, 77


def coloured(number: int, side: int = 8) -> bytes:
    """A square PNG of this number's colour, which the resize does not change."""
    sink = io.BytesIO()
    Image.new("RGB", (side, side), colour(number)).save(sink, "PNG")
    return sink.getvalue()


def numbers_of(batch: np.ndarray) -> list[int]:
    """(B, H, W, 3) -> the numbers of its pictures; -1 for what is black, an error for what is not of one colour."""
    found = []
    for picture in batch:
        red, green, blue = (int(value) for value in picture[0, 0])
        if (picture != picture[0, 0]).any() or blue not in (0, 77):
            raise AssertionError(f"a torn picture: {np.unique(picture.reshape(-1, 3), axis=0)}")
        found.append(red + 256 * green if blue else -1)
    return found
