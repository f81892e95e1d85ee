"""One schedule, all of which follows from its seed: two or three runs in trouble, then a calm one, then the proof.

In some, images are forgotten beside the runs and between them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random
from typing import BinaryIO, TypeVar
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import ConfigError, PipelineError
from pipeline.output import lease
from pipeline.plan import loose, planner, span_size
from pipeline.plan.forgotten import FORGOTTEN
from pipeline.storage import registry
from tests.simulation import invariants
from tests.simulation.runs import SimulatedForget, SimulatedRun
from tests.simulation.scheduler import Killed, Scheduler, Trouble, Turn
from tests.simulation.shards import ENDINGS
from tests.simulation.source import INPUT, LOOSE, Source
from tests.simulation.store import SCHEME, SimulatedStore

OUTPUT, CALM = f"{SCHEME}://bucket/out", f"{SCHEME}://bucket/calm"
T = TypeVar("T")
R = TypeVar("R")
WAIT_S = lease.LEASE_S + 2 * lease.LOOK_S  # a lease left behind delays nobody for longer


def _read_table(stream: BinaryIO, columns: list[str] | None = None) -> pa.Table:
    """What pyarrow's function of that name gives for one file, without threads: five times as fast for a small one."""
    return pq.ParquetFile(stream).read(columns, use_threads=False)


_read_groups = functools.partialmethod(pq.ParquetFile.read_row_groups, use_threads=False)


def _in_turn(work: Callable[[T], R], things: Iterable[T], _at_once: int = 1) -> Iterator[R]:
    """Work is done by whoever asks for its answers, when he does: a run has one thread, which has an order."""
    return map(work, things)


# Parts and spans of a few images.
SMALL: list[tuple[object, str, object]] = [
    (loose, "FIRST", 2), (span_size, "PIECES", 2), (planner, "CHUNK", 3), (storage, "in_parallel", _in_turn),
    (lease, "GIVE_BACK_S", 3600.0), (pq, "read_table", _read_table), (pq.ParquetFile, "read_row_groups", _read_groups),
]  # fmt: skip


@dataclass
class Outcome:
    """What a schedule was, and what of the invariants did not hold."""

    seed: int
    trace: list[str]
    violations: list[str] = field(default_factory=list)
    forgets: bool = False
    rough: bool = False
    requests: int = 0
    killed: int = 0
    overlapped: bool = False  # runs took turns
    changes: int = 0
    forgotten: int = 0  # images that the plan wants forgotten at the end

    def __str__(self) -> str:
        flags = [flag for flag, given in (("--forgetting", self.forgets), ("--rough", self.rough)) if given]
        again = " ".join(["python -m tests.simulation", *flags, str(self.seed)])
        head = f"seed {self.seed}: {len(self.violations)} violations; again: {again}"
        return "\n".join([head, *self.trace, *(f"  VIOLATION: {said}" for said in self.violations)])


Sabotage = Callable[[SimulatedStore], None]


@contextmanager
def small_world() -> Iterator[None]:
    """Constants for a few images, and no noise of threads that died as planned."""
    with contextlib.ExitStack() as stack:
        for module, name, value in SMALL:
            stack.enter_context(mock.patch.object(module, name, value))
        stack.enter_context(mock.patch.object(threading, "excepthook", _hook))
        for redirect in (contextlib.redirect_stdout, contextlib.redirect_stderr):
            stack.enter_context(redirect(io.StringIO()))
        yield


def _hook(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not Killed:
        threading.__excepthook__(args)


def simulate(seed: int, sabotage: Sabotage | None = None, *, forgets: bool = False, rough: bool = False) -> Outcome:
    """Play the schedule of a seed, with images forgotten meanwhile or without. `sabotage` changes its store.

    In a `rough` one the source is, and runs have a --limit, or would take photos for images.
    """
    with small_world():
        return Schedule(seed, sabotage, forgets=forgets, rough=rough).play()


class Schedule:
    """Everything of one schedule."""

    def __init__(self, seed: int, sabotage: Sabotage | None, *, forgets: bool, rough: bool) -> None:
        self.random = random = Random(seed)
        self.store = SimulatedStore()
        changes = random.choice((0, 1, 2, 4, 6) if rough else (0, 0, 1, 2, 4))
        ending = ENDINGS[seed % len(ENDINGS)] if rough else ""
        self.source = Source(self.store, random, changes, removes=0.6 if forgets else 0.25, rough=ending)
        self.scheduler = Scheduler(random, random.choice((0.02, 0.1, 0.5)), self.source.meanwhile)
        self.outcome = Outcome(seed, self.scheduler.trace, forgets=forgets, rough=rough)
        self.is_limited = False  # a run had a --limit: other bytes
        self.changes = changes
        self.forgets = [self._forget(name) for name in "fg"[: random.choice((1, 1, 2))]] if forgets else []
        if sabotage is not None:
            sabotage(self.store)
        registry.register(SCHEME, self.store)

    def play(self) -> Outcome:
        """Chaos, a calm run, the proof."""
        with mock.patch.object(lease, "time", self.scheduler):
            self.store.scheduler, self.store.watch = self.scheduler, self._watch
            turns = [self._turn(name) for name in "abc"[: self.random.choice((2, 2, 3))]]
            turns += [
                Turn(forget.name, forget.run, self._trouble((0, 30, 60, 100, 150), most_writes=7))
                for forget in self.forgets
            ]
            self.scheduler.run(turns)
            self._judge(turns)
            self._prove()
        self.outcome.requests = self.scheduler.requests
        self.outcome.overlapped = self.scheduler.overlapped
        self.outcome.killed = sum(turn.dead for turn in turns)
        self.outcome.forgotten = len(invariants.Forgotten(self.store, OUTPUT, self.source).versions)
        self.outcome.changes = self.changes - len(self.source.at)
        return self.outcome

    def _turn(self, name: str) -> Turn:
        random = self.random
        kind = random.choice(("join", "join", "join", "wait", "exit"))
        run = SimulatedRun(name, OUTPUT, self.scheduler, Random(random.random()), kind, random.random() < 0.15)
        if self.outcome.rough:
            run.limit = random.choice((None, None, random.randint(1, 15)))
            run.photos = random.random() < 0.3
            self.is_limited |= run.limit is not None
        return Turn(name, run.run, self._trouble((0, 0, random.randint(1, 150))))

    def _forget(self, name: str) -> SimulatedForget:
        """Images are named, also such as are not there (yet), or those that are gone are meant."""
        random = self.random
        known = sorted({*self.source.met, *(f"{INPUT}/{image}" for image in LOOSE)})
        uris = frozenset(random.sample(known, random.randint(1, len(known)))) if random.random() < 0.5 else None
        max_gone, if_running = random.choice((1.0, 1.0, 0.2)), random.choice(("join", "wait"))
        return SimulatedForget(name, OUTPUT, self.scheduler, uris, max_gone, if_running)

    def _trouble(self, starts_at: Sequence[int], most_writes: int = 14) -> Trouble:
        random = self.random
        writes = random.random() < 0.6
        trouble = Trouble(
            starts_at=random.choice(starts_at),
            writes=writes,
            loses=random.choice((0.0, 0.0, 0.03, 0.2)),
            offset=random.choice((0.0, 60.0, -3600.0, 1e6)),
            rate=random.choice((1.0, 1.0, 0.9, 1.1)),
        )
        if random.random() < 0.6:
            trouble.dies_at = random.randint(1, most_writes if writes else 100)
            trouble.dies_after = random.random() < 0.5
        elif random.random() < 0.2:
            trouble.gives_up_at = random.randint(1, 100)
        return trouble

    def _watch(self, what: str, uri: str) -> None:
        """Look at every write just before it takes effect."""
        if what == "delete" and (said := invariants.needless_deletion(self.store, OUTPUT, uri)):
            self._violated(said)
        ends_well = what == "put" and uri == f"{OUTPUT}/_SUCCESS" and self.source.static and not self.is_limited
        if ends_well and (said := invariants.lacking(self.store, OUTPUT, self.source)):
            self._violated(f"_SUCCESS is written, and {said}")

    def _violated(self, said: str) -> None:
        self.scheduler.note(f"VIOLATION: {said}")
        self.outcome.violations.append(said)

    def _judge(self, turns: list[Turn]) -> None:
        """How the runs ended, which is dead, well, or with an error that is theirs to have."""
        for turn in turns:
            if isinstance(turn.result, BaseException) and not isinstance(turn.result, PipelineError | OSError | Killed):
                self._violated(f"run {turn.name} ends with {turn.result!r}")
        if said := invariants.success_is_honest(self.store, OUTPUT):
            self._violated(said)

    def _prove(self) -> None:
        began = self.scheduler.now
        late = [forget for forget in self.forgets if self.random.random() < 0.5 or not self._again(forget)]
        if self.forgets and self.changes and self.random.random() < 0.7:
            self.scheduler.note(f"source: {self.source.change()}")
        calm_from_scratch = not self.source.loose_changed
        if not self._last():
            return
        if self.scheduler.now - began > WAIT_S:
            self._violated(f"the last run has waited for {self.scheduler.now - began:.0f} s")
        self._at_the_end()
        if late:
            for forget in late:
                self._again(forget)
            self._calm("after", OUTPUT)
            self._at_the_end()
        self._allow()
        cut_off = {uri for _, uri, row in invariants.rows_of(self.store, OUTPUT) if row[0] == "fetch_error"}
        if cut_off:
            self._calm("retry", OUTPUT, retry_failed=True)
            self._at_the_end()
        plan = invariants.parts(self.store, OUTPUT, FORGOTTEN)
        plan |= {} if calm_from_scratch else invariants.parts(self.store, OUTPUT)
        for name, data in plan.items():
            self.store.set(f"{CALM}/plan/{name}", data)
        self.store.set(f"{CALM}/_run.json", self.store.objects[f"{OUTPUT}/_run.json"])
        if not self.is_limited and self._calm("other", CALM):
            for said in invariants.different_bytes(self.store, OUTPUT, CALM, self.source, cut_off):
                self._violated(said)

    def _last(self) -> bool:
        """The calm run that ends it all well; of what is planned and forbidden now it says that it is missing."""
        run = SimulatedRun("last", OUTPUT, self.scheduler, Random(0), "wait")
        if self.store.forbidden:
            with contextlib.suppress(PipelineError):
                run.run()
            if f"{OUTPUT}/_SUCCESS" not in self.store.objects:
                self._allow()
        return self._calm("last", OUTPUT, if_running="wait")

    def _allow(self) -> None:
        if self.store.forbidden:
            self.scheduler.note("source: all are allowed")
            self.store.forbidden.clear()

    def _again(self, forget: SimulatedForget) -> bool:
        """The same command alone and undisturbed; whether there was an output to forget images of."""
        if f"{OUTPUT}/_run.json" not in self.store.objects:
            return False
        try:
            code: object = replace(forget, name=f"{forget.name}2", if_running="wait").run()
        except Exception as error:
            code = error
        self.scheduler.note(f"forgetting ({forget.name}) again ends with {code!r}")
        too_many = isinstance(code, ConfigError) and forget.max_gone < 1 and "are gone, more than" in str(code)
        if code != 0 and not too_many:
            self._violated(f"forgetting ({forget.name}) again ends with {code!r}")
        elif code == 0:
            for said in invariants.forgotten_at_once(self.store, OUTPUT, self.source, forget.uris):
                self._violated(said)
        return True

    def _at_the_end(self) -> None:
        wishes = [forget.uris for forget in self.forgets]
        for said in itertools.chain(
            invariants.at_the_end(self.store, OUTPUT, self.source),
            invariants.forgets_only_its_own(self.store, OUTPUT, self.source, wishes),
        ):
            self._violated(said)

    def _calm(
        self, name: str, output: str, *, if_running: lease.IfRunning = "join", retry_failed: bool = False
    ) -> bool:
        """A run alone and undisturbed; whether it ended well."""
        self.scheduler.now += 1.0
        run = SimulatedRun(name, output, self.scheduler, Random(0), if_running, retry_failed)
        try:
            code: object = run.run()
        except Exception as error:
            code = repr(error)
        self.scheduler.note(f"the {name} run ends with {code}")
        if code != 0:
            self._violated(f"the calm run {name} ends with {code}")
        return code == 0
