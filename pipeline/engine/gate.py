"""Bounds on what is under way, that let go of everybody who waits when the work ends."""

from __future__ import annotations

import threading


class GateClosed(Exception):
    """The work that this gate bounds has ended."""


class Gate:
    """A semaphore of `places` that can be closed."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._closed = False
        self._changed = threading.Condition()

    def enter(self) -> None:
        """Take a place; waits for one. Raises GateClosed, also to those who wait."""
        with self._changed:
            while not self._places and not self._closed:
                self._changed.wait()
            if self._closed:
                raise GateClosed
            self._places -= 1

    def leave(self) -> None:
        """Give a place back."""
        with self._changed:
            self._places += 1
            self._changed.notify()

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
