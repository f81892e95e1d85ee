"""The hosts of remote storage as this process sees them: how many requests each bears, and whether it answers.

Each host has a window of requests in flight. The first fault of a round halves it, every answer widens it by a part of
one, so that a whole round of answers adds one. When a window of one fails too, nobody asks for 0.1 s, then twice as
long, up to 4 s; the first answer ends the pause for all. A host is what stands between `://` and the next slash: a
bucket, or a web server.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TypeVar

MOST = 64  # requests in flight to a host
FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_LOOK_S = 0.1, 4.0, 10.0
QUIET_S, TELL_S = 2.0, 10.0  # shorter trouble is not reported; pause between two reports
HOSTS = 4096  # known at a time: lists of web images may name millions

T = TypeVar("T")


class Fault(Exception):
    """A failure that may pass; `throttled` where the storage asks for fewer requests. The text is stable."""

    def __init__(self, text: str, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.throttled = throttled


class NoRoom(Exception):
    """The host's window is full, and the time to wait is over."""


class Evidence:
    """For how long something has failed while others could be read."""

    def __init__(self) -> None:
        self.alone_s = 0.0
        self._last = time.monotonic()

    def add(self, *, others_read: bool) -> None:
        """It has failed again. What was between two looks nobody knows: a long time counts as a short one."""
        now = time.monotonic()
        if others_read:
            self.alone_s += min(now - self._last, LONGEST_LOOK_S)
        else:
            self.alone_s = 0.0
        self._last = now


class Host:
    """One host as this process sees it: how many requests it bears, and what could be read there last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.window = float(MOST)
        self.in_flight = 0
        self.answered = False
        self.evidence = Evidence()  # against the host, as long as it has not answered
        self.given_up = False  # it has never answered, while other hosts did for as long as an object is waited for
        self.read: deque[str] = deque(maxlen=8)
        self._in_row = 0  # faults with a window of one since the last answer
        self._closed_until = 0.0
        self._narrowed = 0.0  # when; requests that began before belong to the same round
        self._trouble = self._last_fault = self._told = -math.inf
        self._changed = threading.Condition()

    def let_through(self, attempt: Callable[[], T], deadline: float, *, paced: bool = True) -> T:
        """Make a request when there is room for it; raises NoRoom where there is none before the deadline.

        Without `paced` it does not heed that the host is left alone for a while.
        """
        began = self._enter(deadline, paced)
        try:
            answer = attempt()
        except Fault as fault:
            self._failed(fault, began)
            raise
        except Exception:  # an answer too, if not the one that was hoped for
            self._answered()
            raise
        except BaseException:
            self._leave()
            raise
        self._answered()
        return answer

    def _enter(self, deadline: float, paced: bool) -> float:
        with self._changed:
            while True:
                now = time.monotonic()
                if self.in_flight < int(self.window) and (now >= self._closed_until or not paced):
                    self.in_flight += 1
                    return now
                if now >= deadline:
                    raise NoRoom
                closed_s = self._closed_until - now
                self._changed.wait(min(closed_s if closed_s > 0 else LONGEST_PAUSE_S, deadline - now))

    def _leave(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self._changed.notify()

    def _answered(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self.answered, self.given_up = True, False
            self.window = min(MOST, self.window + 1 / self.window)
            if self._in_row:
                self._changed.notify_all()
            self._in_row, self._closed_until = 0, 0.0
            self._changed.notify(2)

    def _failed(self, fault: Fault, began: float) -> None:
        with self._changed:
            now = time.monotonic()
            if began > self._narrowed and not self.given_up:
                self.window = max(1.0, min(self.window, self.in_flight) / 2)
                self._narrowed = now
            self.in_flight -= 1
            if self.window < 2:
                self._in_row += 1
                self._closed_until = now + pause_s(self._in_row)
            if now - self._last_fault > TELL_S:
                self._trouble = now
            self._last_fault = now
            due = now - self._trouble > QUIET_S and now - self._told > TELL_S
            self._told = now if due else self._told
            self._changed.notify()
        if due and _teller is not None:
            what = "throttles" if fault.throttled else "does not answer"
            many = f"{int(self.window)} request{'s' if self.window >= 2 else ''} in flight"
            _teller(f"storage {what}: {many}")

    def give_up(self) -> None:
        """Wait for this host no more, until it answers."""
        with self._changed:
            self.given_up, self.window, self._closed_until = True, float(MOST), 0.0
            self._changed.notify_all()

    def witness(self, uri: str) -> str | None:
        """Another object that could be read: of this host, or of others if this one has never answered."""
        hosts = [self]
        if not self.answered:
            scheme = self.name.partition("://")[0] + "://"
            hosts = [host for name, host in list(_hosts.items()) if name.startswith(scheme)]
        return next((other for host in hosts for other in reversed(list(host.read)) if other != uri), None)


def pause_s(faults: int) -> float:
    """How long to wait after so many faults in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** min(faults - 1, 16), LONGEST_PAUSE_S)


_hosts: dict[str, Host] = {}
_making = threading.Lock()
_teller: Callable[[str], None] | None = None


def tell_to(teller: Callable[[str], None] | None) -> None:
    """Set the function that gets a line now and then while a host fails."""
    global _teller
    _teller = teller


def forget() -> None:
    """Forget what is known of all hosts."""
    with _making:
        _hosts.clear()


def host_of(uri: str) -> Host:
    """The host of a URI."""
    scheme, _, rest = uri.partition("://")
    name = f"{scheme}://{rest.partition('/')[0]}"
    with _making:
        if name not in _hosts:
            if len(_hosts) >= HOSTS:  # those that are asked just now are made anew if they are forgotten
                for oldest in list(_hosts)[: HOSTS // 4]:
                    del _hosts[oldest]
            _hosts[name] = Host(name)
        found = _hosts[name] = _hosts.pop(name)  # the last one to be forgotten
        return found
