"""How a storage that fails for a while is waited for. All stores beyond this machine ask through `ask`.

What the storage says of one object (not there, forbidden, replaced) is its answer and is raised at once. A `Fault` may
pass: throttling (429, 503), other 5xx, refused, dropped and silent connections, bodies that break off. The request is
made again, after pauses of 0.1 s to 4 s, until one of these holds:

- In a run it has failed for `--patience` seconds: PatienceSpent, which ends the run. No object was at fault.
- It is a read that has failed for 60 s (half of `--patience` if that is less), and after every failure another object
  of the same host could be read: the object is at fault, ObjectUnreadable. That other object is one that was read
  before; its first byte is asked for. A host that has not answered once is judged by the other hosts of its scheme; if
  it is at fault, its other objects are tried once each until it answers: lists of web images name many dead hosts.
- Within `quick()`, before a run has begun, it has failed 3 times, or once by silence: ObjectUnreadable. Throttling is
  waited for.
- Outside of runs it has failed for 30 s: ObjectUnreadable.

Meanwhile fewer requests are made: `host.py`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from pipeline.errors import ObjectUnreadable, PatienceSpent
from pipeline.storage.host import Evidence, Fault, Host, NoRoom, forget, host_of, pause_s, tell_to

CHECK = "check the address (of S3: AWS_ENDPOINT_URL) and the network"
QUICK_TRIES, QUICK_S, OUTSIDE_S, OBJECT_S = 3, 5.0, 30.0, 60.0

T = TypeVar("T")
_quick = ContextVar("quick", default=False)
_patience_s: float | None = None  # None outside of runs


def be_patient(seconds: float | None, tell: Callable[[str], None] | None = None) -> None:
    """From now on this process works for a run that waits for so long (None: for no run); `tell` gets lines to show.

    What was known of hosts is forgotten where that changes.
    """
    global _patience_s
    if seconds != _patience_s:
        forget()
    _patience_s = seconds
    tell_to(tell)


@contextmanager
def patient(seconds: float, tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block this process works for a run, as `be_patient` says."""
    be_patient(seconds, tell)
    try:
        yield
    finally:
        be_patient(None)


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
    host, asked = host_of(uri), time.monotonic()
    waiting: _Waiting | None = None
    while True:
        try:
            answer = host.let_through(attempt, waiting.deadline if waiting else math.inf, paced=not is_quick())
        except Fault as fault:
            waiting = waiting or _Waiting(uri, host, read, fault, asked)
            waiting.go_on(fault)
            continue
        except NoRoom as error:  # only waiting calls have a deadline
            raise (waiting.spent() if waiting else error) from error
        if read is not None and uri not in host.read:  # the ranges of one shard must not push out all others
            host.read.append(uri)
        return answer


class _Waiting:
    """A request that has failed and is made again."""

    def __init__(self, uri: str, host: Host, read: Callable[[str], object] | None, fault: Fault, asked: float) -> None:
        self.uri, self.host, self.read, self.fault = uri, host, read, fault
        self.asked, self.tries = asked, 0
        self.began = time.monotonic()
        self.own_evidence = Evidence()

    @property
    def evidence(self) -> Evidence:
        """That against the object, or against its host if that has never answered."""
        return self.own_evidence if self.host.answered else self.host.evidence

    @property
    def seconds(self) -> float:
        """How long to wait in all."""
        return OUTSIDE_S if _patience_s is None else _patience_s

    @property
    def deadline(self) -> float:
        """When to give up."""
        return self.began + self.seconds

    @property
    def verdict_s(self) -> float:
        """For how long it must have failed while others could be read."""
        return min(OBJECT_S, self.seconds / 2)

    def go_on(self, fault: Fault) -> None:
        """Sleep before the next attempt, or raise what ends the waiting."""
        self.tries, self.fault = self.tries + 1, fault
        if is_quick() and not fault.throttled:
            if self.tries >= QUICK_TRIES or time.monotonic() - self.asked >= QUICK_S:
                raise ObjectUnreadable(f"{fault}: {CHECK}") from fault
        elif not is_quick() and self.read is not None and self._judge():
            raise ObjectUnreadable(str(fault)) from fault
        elif time.monotonic() >= self.deadline:
            raise self.spent() from fault
        time.sleep(self._pause_s())

    def _pause_s(self) -> float:
        """Up to the next attempt, which is not later than the verdict or the end of the waiting."""
        pause = pause_s(self.tries) * random.uniform(0.5, 1)
        if self.read is not None:
            pause = min(pause, self.verdict_s - self.evidence.alone_s)
        return max(0.0, min(pause, self.deadline - time.monotonic()))

    def _judge(self) -> bool:
        """Gather evidence and weigh it: whether it is the object, or its host, rather than the storage."""
        if self.host.given_up:
            return True
        if self.tries == 1 and self.host.answered:
            return False
        evidence = self.evidence
        evidence.add(others_read=self._others_can_be_read())
        found = evidence.alone_s >= self.verdict_s
        if found and not self.host.answered:
            self.host.give_up()
        return found

    def _others_can_be_read(self) -> bool:
        other = self.host.witness(self.uri)
        if other is None or self.read is None:
            return False
        read = self.read
        try:
            host_of(other).let_through(lambda: read(other), self.deadline)
        except (Fault, NoRoom):
            return False
        except (OSError, ObjectUnreadable):
            return True  # for example that it is gone: that is an answer
        return True

    def spent(self) -> Exception:
        """The error that says that the time to wait is over."""
        if _patience_s is None:
            return ObjectUnreadable(str(self.fault))
        return PatienceSpent(
            f"{self.host.name}: {self.fault}, for {self.seconds:g} s (--patience); nothing finished is lost, the same "
            "command continues"
        )
