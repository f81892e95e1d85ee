"""The driver's thread that looks whether its cluster is there: Ray ends a driver that has lost it, without a word.

A connection is opened, and closed again. A process that is busy has one waiting for it all the same, so only one that
is not there, or a machine that cannot be reached, is said to be lost. Ray itself is asked nothing.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Sequence
from typing import NamedTuple

from pipeline.log import warn

EVERY_S = 10.0
CONNECT_S = 5.0
MISSES = 3  # in a row; Ray ends the driver after a minute


class Door(NamedTuple):
    """Where a process of the cluster listens, and what users know it as."""

    what: str
    host: str
    port: int

    def is_shut(self) -> bool:
        """Whether no connection can be opened."""
        try:
            socket.create_connection((self.host, self.port), CONNECT_S).close()
        except OSError:
            return True
        return False


class Watch:
    """Says once, on standard error, that one of these does not answer any more, and what then happens.

    One that cannot be reached from the beginning tells nothing.
    """

    def __init__(self, doors: Sequence[Door], every_s: float = EVERY_S) -> None:
        self.doors, self.every_s = doors, every_s
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self.thread.start()

    def end(self) -> None:
        """Look no more."""
        self.ended.set()

    def _run(self) -> None:
        misses = {door: 0 for door in self.doors if not door.is_shut()}
        while not self.ended.wait(self.every_s):
            for door in misses:
                misses[door] = misses[door] + 1 if door.is_shut() else 0
                if misses[door] == MISSES and not self.ended.is_set():
                    warn(
                        f"{door.what} at {door.host}:{door.port} does not answer: if it stays away Ray ends this run "
                        "within a minute; nothing finished is lost, the same command continues"
                    )
                    return
