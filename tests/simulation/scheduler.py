"""Runs take turns in one process: before every request to the storage the scheduler decides which of them goes on.

Each run is a thread, and one thread at a time has the turn, so a schedule follows from its seed alone. A request by
a helper thread of a run (a pool's) is the run's own: the run waits for it, and keeps the turn or hands it over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from random import Random

NEVER = 1 << 60


class Fate(Enum):
    """What becomes of a request."""

    WELL = "well"
    LOST_BEFORE = "lost before it took effect, asked again"
    LOST_AFTER = "lost after it took effect, asked again"
    GIVEN_UP = "given up before it took effect"
    GIVEN_UP_AFTER = "given up after it took effect"
    DIES_AFTER = "the run dies after it took effect"


class Killed(BaseException):
    """The run that makes this request is dead."""


@dataclass
class Trouble:
    """What befalls one run. Numbers count its requests, or with `writes` its writes; a clock is off by `offset` s."""

    starts_at: int = 0  # requests of all runs before it begins
    dies_at: int = NEVER
    dies_after: bool = False  # the request took effect
    writes: bool = False
    gives_up_at: int = NEVER  # the storage is away for longer than the run's patience
    loses: float = 0.0  # share of requests that are lost and made again
    offset: float = 0.0
    rate: float = 1.0  # seconds of its clock in a second


@dataclass
class Turn:
    """A run as the scheduler sees it."""

    name: str
    work: Callable[[], object]
    trouble: Trouble
    go: threading.Lock = field(default_factory=threading.Lock)
    requests: int = 0
    writes: int = 0
    wakes: float = 0.0  # when it has slept enough
    dead: bool = False
    ended: bool = False
    result: object = None  # what `work` returned or raised


class Scheduler:
    """Decides by its seed. Without runs, requests are well and the clock stands until somebody sleeps."""

    def __init__(
        self, random: Random, switches: float = 0.0, meanwhile: Callable[[int], str | None] | None = None
    ) -> None:
        """`switches`: how often another run gets the turn. `meanwhile(requests)` changes the source, and says how."""
        self.random, self.switches, self.meanwhile = random, switches, meanwhile
        self.turns: list[Turn] = []
        self.current: Turn | None = None
        self.now = 0.0
        self.requests = 0
        self.trace: list[str] = []
        self.overlapped = False  # a run went on in the middle of another's work, and in the middle of its own
        self._over = threading.Lock()

    def run(self, turns: list[Turn]) -> None:
        """Let these runs take turns until all have ended or are dead."""
        self.turns = turns
        self._over.acquire()
        threads = [threading.Thread(target=self._live, args=(turn,), daemon=True) for turn in turns]
        for turn, thread in zip(turns, threads, strict=True):
            turn.go.acquire()
            thread.start()
        self._pass_on()
        self._over.acquire()
        for thread in threads:
            thread.join()
        self.current = None
        self._over.release()

    def _live(self, turn: Turn) -> None:
        turn.go.acquire()
        try:
            turn.result = turn.work()
        except BaseException as error:  # judged at the end of the schedule
            turn.result = error
        turn.ended = True
        self.note(f"ends with {turn.result!r}")
        self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn away, or end: the run that has it now does not go on."""
        following = self._next()
        self.current = following
        (following.go if following is not None else self._over).release()

    def _next(self) -> Turn | None:
        """One of the runs that could go on; where all sleep, time passes."""
        left = [turn for turn in self.turns if not turn.ended]
        begun = [turn for turn in left if turn.requests or turn.trouble.starts_at <= self.requests] or left
        if not begun:
            return None
        self.now = max(self.now, min(turn.wakes for turn in begun))
        return self.random.choice([turn for turn in begun if turn.wakes <= self.now])

    def _hand_over(self) -> None:
        mine, following = self.current, self._next()
        if mine is not None and following is not None and following is not mine:
            self.current = following
            self.overlapped |= following.requests > 0
            following.go.release()
            mine.go.acquire()

    def note(self, text: str) -> None:
        """A line of the schedule."""
        self.trace.append(f"{self.now:9.3f} {self.current.name if self.current else 'calm':>6}: {text}")

    def request(self, what: str, *, write: bool) -> Fate:
        """What becomes of the request that is about to be made; raises Killed where its run dies before."""
        turn = self.current
        if turn is None:
            return Fate.WELL
        if turn.dead:
            raise Killed
        self.requests += 1
        self.now += self.random.choice((0.001, 0.01, 0.1)) if self.random.random() < 0.99 else 20.0
        if self.meanwhile is not None and (said := self.meanwhile(self.requests)):
            self.trace.append(f"{self.now:9.3f} source: {said}")
        if self.random.random() < self.switches:
            self._hand_over()
        turn.requests += 1
        turn.writes += write
        fate = self._fate(turn, write=write)
        self.note(what if fate is Fate.WELL else f"{what} ({fate.value})")
        return fate

    def _fate(self, turn: Turn, *, write: bool) -> Fate:
        trouble = turn.trouble
        counted = turn.writes if trouble.writes else turn.requests
        if counted == trouble.dies_at and (write or not trouble.writes):
            turn.dead = True
            if not trouble.dies_after:
                self.note("dies")
                raise Killed
            return Fate.DIES_AFTER
        if turn.requests == trouble.gives_up_at:
            return self.random.choice((Fate.GIVEN_UP, Fate.GIVEN_UP_AFTER))
        if trouble.loses and self.random.random() < trouble.loses:
            return self.random.choice((Fate.LOST_BEFORE, Fate.LOST_AFTER))
        return Fate.WELL

    def sleep(self, seconds: float) -> None:
        """The run whose turn it is sleeps, by its own clock; others go on."""
        turn = self.current
        if turn is None:
            self.now += seconds
            return
        turn.wakes = self.now + seconds / turn.trouble.rate
        self._hand_over()

    def clock(self) -> float:
        """Seconds on the clock of the run whose turn it is."""
        turn = self.current
        return self.now if turn is None else turn.trouble.offset + self.now * turn.trouble.rate

    monotonic = clock  # the scheduler stands in for the module `time`
