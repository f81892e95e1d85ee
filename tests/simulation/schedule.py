"""One schedule, all of which follows from its seed: two or three runs in trouble, then a calm one, then the proof."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import BinaryIO
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import PipelineError
from pipeline.output import lease
from pipeline.plan import loose, planner, span_size
from pipeline.storage import registry
from tests.simulation import invariants
from tests.simulation.runs import SimulatedRun
from tests.simulation.scheduler import Killed, Scheduler, Trouble, Turn
from tests.simulation.source import Source
from tests.simulation.store import SCHEME, SimulatedStore

OUTPUT, CALM = f"{SCHEME}://bucket/out", f"{SCHEME}://bucket/calm"
WAIT_S = lease.LEASE_S + 2 * lease.LOOK_S  # a lease left behind delays nobody for longer


def _read_table(stream: BinaryIO, columns: list[str] | None = None) -> pa.Table:
    """What pyarrow's function of that name gives for one file, without threads: five times as fast for a small one."""
    return pq.ParquetFile(stream).read(columns, use_threads=False)


_read_groups = functools.partialmethod(pq.ParquetFile.read_row_groups, use_threads=False)

# Parts and spans of a few images; one request at a time per run, for its threads to have an order.
SMALL: list[tuple[object, str, object]] = [
    (loose, "FIRST", 2), (span_size, "PIECES", 2), (planner, "CHUNK", 3), (storage, "PARALLEL", 1),
    (lease, "GIVE_BACK_S", 3600.0), (pq, "read_table", _read_table), (pq.ParquetFile, "read_row_groups", _read_groups),
]  # fmt: skip


@dataclass
class Outcome:
    """What a schedule was, and what of the invariants did not hold."""

    seed: int
    trace: list[str]
    violations: list[str] = field(default_factory=list)
    requests: int = 0
    killed: int = 0
    overlapped: bool = False  # runs took turns
    changes: int = 0

    def __str__(self) -> str:
        head = f"seed {self.seed}: {len(self.violations)} violations; again: python -m tests.simulation {self.seed}"
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


def simulate(seed: int, sabotage: Sabotage | None = None) -> Outcome:
    """Play the schedule of a seed. `sabotage` puts a bug into its store."""
    with small_world():
        return Schedule(seed, sabotage).play()


class Schedule:
    """Everything of one schedule."""

    def __init__(self, seed: int, sabotage: Sabotage | None) -> None:
        self.random = random = Random(seed)
        self.store = SimulatedStore()
        changes = random.choice((0, 0, 1, 2, 4))
        self.source = Source(self.store, random, changes)
        self.scheduler = Scheduler(random, random.choice((0.02, 0.1, 0.5)), self.source.meanwhile)
        self.outcome = Outcome(seed, self.scheduler.trace)
        self.changes = changes
        if sabotage is not None:
            sabotage(self.store)
        registry.register(SCHEME, self.store)

    def play(self) -> Outcome:
        """Chaos, a calm run, the proof."""
        with mock.patch.object(lease, "time", self.scheduler):
            self.store.scheduler, self.store.watch = self.scheduler, self._watch
            self.scheduler.run(turns := [self._turn(name) for name in "abc"[: self.random.choice((2, 2, 3))]])
            self._judge(turns)
            loose_changed = self.source.loose_changed
            self._prove(calm_from_scratch=not loose_changed)
        self.outcome.requests = self.scheduler.requests
        self.outcome.overlapped = self.scheduler.overlapped
        self.outcome.killed = sum(turn.dead for turn in turns)
        self.outcome.changes = self.changes - len(self.source.at)
        return self.outcome

    def _turn(self, name: str) -> Turn:
        random = self.random
        kind = random.choice(("join", "join", "join", "wait", "exit"))
        run = SimulatedRun(name, OUTPUT, self.scheduler, Random(random.random()), kind, random.random() < 0.15)
        writes = random.random() < 0.6
        trouble = Trouble(
            starts_at=random.choice((0, 0, random.randint(1, 150))),
            writes=writes,
            loses=random.choice((0.0, 0.0, 0.03, 0.2)),
            offset=random.choice((0.0, 60.0, -3600.0, 1e6)),
            rate=random.choice((1.0, 1.0, 0.9, 1.1)),
        )
        if random.random() < 0.6:
            trouble.dies_at = random.randint(1, 14 if writes else 100)
            trouble.dies_after = random.random() < 0.5
        elif random.random() < 0.2:
            trouble.gives_up_at = random.randint(1, 100)
        return Turn(name, run.run, trouble)

    def _watch(self, what: str, uri: str) -> None:
        """Look at every write just before it takes effect."""
        if what == "delete" and (said := invariants.needless_deletion(self.store, OUTPUT, uri)):
            self._violated(said)
        ends_well = what == "put" and uri == f"{OUTPUT}/_SUCCESS" and self.source.static
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

    def _prove(self, *, calm_from_scratch: bool) -> None:
        began = self.scheduler.now
        if not self._calm("last", OUTPUT, if_running="wait"):
            return
        if self.scheduler.now - began > WAIT_S:
            self._violated(f"the last run has waited for {self.scheduler.now - began:.0f} s")
        self._at_the_end()
        if any(row[0] == "fetch_error" for _, _, row in invariants.rows_of(self.store, OUTPUT)):
            self._calm("retry", OUTPUT, retry_failed=True)
            self._at_the_end()
        if not calm_from_scratch:
            for name, data in invariants.parts(self.store, OUTPUT).items():
                self.store.set(f"{CALM}/plan/{name}", data)
        if self._calm("other", CALM):
            for said in invariants.different_bytes(self.store, OUTPUT, CALM, self.source):
                self._violated(said)

    def _at_the_end(self) -> None:
        for said in invariants.at_the_end(self.store, OUTPUT, self.source):
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
