"""How a storage that fails for a while is waited for. All stores beyond this machine ask through `ask`.

What the storage says of one object (not there, forbidden, replaced) is its answer and is raised at once. A `Fault` may
pass: throttling (429, 503), other 5xx, refused, dropped and silent connections, bodies that break off. The request is
made again, after pauses of 0.1 s to 4 s, until one of these holds:

- In a run it has failed for `--patience` seconds: PatienceSpent, which ends the run. No object was at fault.
- It is a read that has failed for 60 s, and after every failure another object of the same host could be read: the
  object is at fault, ObjectUnreadable. That other object is one that was read before; its first byte is asked for. A
  host that has not answered once is judged by the other hosts of its scheme.
- Within `quick()`, before a run has begun, it has failed 3 times, and not by throttling: ObjectUnreadable.
- Outside of runs it has failed for 30 s: ObjectUnreadable.

Meanwhile fewer requests are made: each host, as this process sees it, has a window of requests in flight. The first
fault of a round halves it, every answer widens it by a part of one, so that a whole round of answers adds one. When a
window of one fails too, nobody asks for 0.1 s, then twice as long, up to 4 s; the first answer ends the pause for all.
A host is what stands between `://` and the next slash: a bucket, or a web server.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from pipeline.errors import ObjectUnreadable, PatienceSpent

MOST = 64  # requests in flight to a host
QUICK_TRIES, OUTSIDE_S, OBJECT_S = 3, 30.0, 60.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 4.0
QUIET_S, TELL_S = 2.0, 10.0  # shorter trouble is not reported; pause between two reports

T = TypeVar("T")
_quick = ContextVar("quick", default=False)


class Fault(Exception):
    """A failure that may pass; `throttled` where the storage asks for fewer requests. The text is stable."""

    def __init__(self, text: str, *, throttled: bool = False) -> None:
        super().__init__(text)
        self.throttled = throttled


class _NoRoom(Exception):
    """The host's window is full, and the time to wait is over."""


@dataclass(frozen=True)
class _Manner:
    """How this process waits: so many seconds in a run, None outside of runs; whom it tells."""

    seconds: float | None = None
    tell: Callable[[str], None] | None = None


_manner = _Manner()
_hosts: dict[str, Host] = {}
_making = threading.Lock()


def be_patient(seconds: float | None, tell: Callable[[str], None] | None = None) -> None:
    """From now on this process works for a run that waits for so long (None: for no run); `tell` gets lines to show.

    What was known of hosts is forgotten where that changes.
    """
    global _manner
    if seconds != _manner.seconds:
        forget()
    _manner = _Manner(seconds, tell)


def forget() -> None:
    """Forget what is known of all hosts."""
    with _making:
        _hosts.clear()


@contextmanager
def quick() -> Iterator[None]:
    """Within the block only throttling is waited for: a wrong endpoint is then reported in a second."""
    token = _quick.set(True)
    try:
        yield
    finally:
        _quick.reset(token)


def is_quick() -> bool:
    """Whether requests made here and now are those of a `quick` block."""
    return _quick.get()


def ask(uri: str, attempt: Callable[[], T], read: Callable[[str], object] | None = None) -> T:
    """The answer to one request about this object, asked for as often as the file's first lines say.

    `attempt` raises Fault for what may pass. `read`, where a failing object may become a row, asks once for the first
    byte of the object of another URI. Raises ObjectUnreadable, PatienceSpent, and what `attempt` raises otherwise.
    """
    host = _host_of(uri)
    waiting: _Waiting | None = None
    while True:
        try:
            answer = host.let_through(attempt, waiting.deadline if waiting else math.inf)
        except Fault as fault:
            waiting = waiting or _Waiting(uri, host, read, fault)
            waiting.go_on(fault)
            continue
        except _NoRoom as error:  # only waiting calls have a deadline
            raise (waiting.spent() if waiting else error) from error
        if read is not None:
            host.read.append(uri)
        return answer


def _host_of(uri: str) -> Host:
    scheme, _, rest = uri.partition("://")
    name = f"{scheme}://{rest.partition('/')[0]}"
    with _making:
        return _hosts.get(name) or _hosts.setdefault(name, Host(name))


class Host:
    """One host as this process sees it: how many requests it bears, and what could be read there last."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.window = float(MOST)
        self.in_flight = 0
        self.answered = False
        self.read: deque[str] = deque(maxlen=8)
        self._in_row = 0  # faults with a window of one since the last answer
        self._closed_until = 0.0
        self._narrowed = 0.0  # when; requests that began before belong to the same round
        self._trouble = self._last_fault = self._told = -math.inf
        self._changed = threading.Condition()

    def let_through(self, attempt: Callable[[], T], deadline: float) -> T:
        """Make a request when there is room for it; raises _NoRoom where there is none before the deadline."""
        began = self._enter(deadline)
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

    def _enter(self, deadline: float) -> float:
        with self._changed:
            while True:
                now = time.monotonic()
                if self.in_flight < int(self.window) and (now >= self._closed_until or is_quick()):
                    self.in_flight += 1
                    return now
                if now >= deadline:
                    raise _NoRoom
                closed_s = self._closed_until - now
                self._changed.wait(min(closed_s if closed_s > 0 else LONGEST_PAUSE_S, deadline - now))

    def _leave(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self._changed.notify()

    def _answered(self) -> None:
        with self._changed:
            self.in_flight -= 1
            self.answered = True
            self.window = min(MOST, self.window + 1 / self.window)
            if self._in_row:
                self._changed.notify_all()
            self._in_row, self._closed_until = 0, 0.0
            self._changed.notify(2)

    def _failed(self, fault: Fault, began: float) -> None:
        with self._changed:
            now = time.monotonic()
            if began > self._narrowed:
                self.window = max(1.0, min(self.window, self.in_flight) / 2)
                self._narrowed = now
            self.in_flight -= 1
            if self.window < 2:
                self._in_row += 1
                self._closed_until = now + _pause_s(self._in_row)
            if now - self._last_fault > TELL_S:
                self._trouble = now
            self._last_fault = now
            due = now - self._trouble > QUIET_S and now - self._told > TELL_S
            self._told = now if due else self._told
            self._changed.notify()
        if due and _manner.tell is not None:
            what = "throttles" if fault.throttled else "does not answer"
            many = f"{int(self.window)} request{'s' if self.window >= 2 else ''} in flight"
            _manner.tell(f"storage {what}: {many}")

    def witness(self, uri: str) -> str | None:
        """Another object that could be read: of this host, or of others if this one has never answered."""
        hosts = [self]
        if not self.answered:
            scheme = self.name.partition("://")[0] + "://"
            hosts = [host for name, host in list(_hosts.items()) if name.startswith(scheme)]
        return next((other for host in hosts for other in reversed(list(host.read)) if other != uri), None)


class _Waiting:
    """A request that has failed and is made again."""

    def __init__(self, uri: str, host: Host, read: Callable[[str], object] | None, fault: Fault) -> None:
        self.uri, self.host, self.read, self.fault = uri, host, read, fault
        self.tries = 0
        self.began = self.last = time.monotonic()
        self.alone_s = 0.0  # for how long others could be read while this failed

    @property
    def seconds(self) -> float:
        """How long to wait in all."""
        return OUTSIDE_S if _manner.seconds is None else _manner.seconds

    @property
    def deadline(self) -> float:
        """When to give up."""
        return self.began + self.seconds

    def go_on(self, fault: Fault) -> None:
        """Sleep before the next attempt, or raise what ends the waiting."""
        now = time.monotonic()
        self.tries, self.fault = self.tries + 1, fault
        if is_quick():
            if not fault.throttled and self.tries >= QUICK_TRIES:
                raise ObjectUnreadable(str(fault)) from fault
        elif self._others_can_be_read():
            self.alone_s += now - self.last
        else:
            self.alone_s = 0.0
        self.last = now
        if self.alone_s >= min(OBJECT_S, self.seconds / 2):
            raise ObjectUnreadable(str(fault)) from fault
        if time.monotonic() >= self.deadline:
            raise self.spent() from fault
        time.sleep(min(_pause_s(self.tries) * random.uniform(0.5, 1), max(0.0, self.deadline - time.monotonic())))

    def _others_can_be_read(self) -> bool:
        other = self.host.witness(self.uri) if self.read is not None and self.tries > 1 else None
        if other is None or self.read is None:
            return False
        read = self.read
        try:
            _host_of(other).let_through(lambda: read(other), self.deadline)
        except (Fault, _NoRoom):
            return False
        except (OSError, ObjectUnreadable):
            return True  # for example that it is gone: that is an answer
        return True

    def spent(self) -> Exception:
        """The error that says that the time to wait is over."""
        if _manner.seconds is None:
            return ObjectUnreadable(str(self.fault))
        return PatienceSpent(
            f"{self.host.name}: {self.fault}, for {self.seconds:g} s (--patience); nothing finished is lost, the same "
            "command continues"
        )


def _pause_s(faults: int) -> float:
    return min(FIRST_PAUSE_S * 2.0 ** min(faults - 1, 16), LONGEST_PAUSE_S)
