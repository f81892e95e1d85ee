"""Bounds on concurrent work; closing one releases all threads that wait."""

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
        """Take a place, waiting for one. Raises GateClosed, also in threads that wait."""
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
        """Refuse all who enter from now on, waiting threads included."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
