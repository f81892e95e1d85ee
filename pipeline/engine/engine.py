"""What an engine is, and the one that works in this process."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from pipeline.config import RunConfig
from pipeline.engine.cores import cores
from pipeline.errors import ConfigError
from pipeline.log import phase
from pipeline.metrics import Sink
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import Row
from pipeline.spec import Device, JobSpec, Trial

if TYPE_CHECKING:
    from pipeline.engine.worker import Worker

AHEAD = 2000  # rows planned before they are worked on, at most


class Engine(Protocol):
    """Where spans are worked on."""

    @property
    def mode(self) -> str:
        """Its name in the report."""

    @property
    def workers(self) -> int:
        """Predictors at most."""

    @property
    def decoders(self) -> int:
        """Processes that decode, over all workers."""

    @property
    def description(self) -> str:
        """The resources and their use, for the first line of a run."""

    @property
    def sink(self) -> Sink | None:
        """Where else the figures of a run go."""

    def device(self, trial: Trial) -> Device:
        """The device of a worker that will predict; raises ConfigError where it cannot do what is asked."""

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished, in any order."""

    def close(self) -> None:
        """Shut down what was started."""


class InProcess:
    """No Ray: one worker, in this process, with a GPU if it has one, else with a predictor for each of its cores."""

    mode = "local"
    sink = None

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.kind = ""  # of the device, once it is known

    @property
    def workers(self) -> int:
        """See `Engine`; one on a GPU, and where nobody has asked for the device."""
        if self.kind != "cpu":
            return 1
        bounds = self.config.worker_range()
        return bounds[1] if bounds else cores()

    @property
    def decoders(self) -> int:
        """See `Engine`."""
        return cores()

    @property
    def description(self) -> str:
        """See `Engine`."""
        return f"in this process, {cores()} CPUs"

    def device(self, trial: Trial) -> Device:
        """See `Engine`."""
        from pipeline.engine.loading import device_here  # here: a run that finds nothing to do needs no torch

        found = device_here(trial)
        if self.config.device == "gpu" and found.kind == "cpu":
            raise ConfigError("--device gpu: this machine has no GPU that works")
        self.kind = found.kind
        return found

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished; threads of this process pull the rows."""
        from pipeline.engine.worker import Worker

        with phase("loading the model"):
            worker = Worker(spec, cores(), predictors=self.workers)
        try:
            yield from work_in_threads(worker, rows)
        finally:
            worker.close()

    def close(self) -> None:
        """Nothing to shut down."""


class _RowsAhead:
    """Rows planned by a thread of their own, up to `AHEAD` of them: what is to be done is known before it is done."""

    def __init__(self, rows: Iterator[Row]) -> None:
        self.rows = rows
        self.planned: queue.Queue[Row | BaseException | None] = queue.Queue(AHEAD)
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._plan, name="plan", daemon=True)
        self.thread.start()

    def _plan(self) -> None:
        try:
            for row in self.rows:
                self.planned.put(row)
                if self.closed.is_set():
                    return
            self.planned.put(None)
        except BaseException as error:  # handed over to the threads that wait
            self.planned.put(error)

    def take(self) -> Row | None:
        """The next row, None behind the last; raises what planning raised."""
        row = self.planned.get()
        if row is None or isinstance(row, BaseException):
            self.planned.put(None)  # for the other threads
        if isinstance(row, BaseException):
            raise row
        return row

    def close(self) -> None:
        """Plan no further; a listing that is silent just now is not waited for."""
        self.closed.set()
        with suppress(queue.Empty):
            while True:
                self.planned.get_nowait()
        self.thread.join(timeout=1)


def work_in_threads(worker: Worker, rows: Iterator[Row]) -> Iterator[Receipt]:
    """What several threads finish together; the first error of any of them is raised."""
    ahead = _RowsAhead(rows)
    try:
        yield from _read_in_threads(worker, ahead)
    finally:
        ahead.close()


def _read_in_threads(worker: Worker, ahead: _RowsAhead) -> Iterator[Receipt]:
    found: queue.SimpleQueue[Receipt | BaseException | None] = queue.SimpleQueue()

    def read() -> None:
        try:
            while (row := ahead.take()) is not None:
                for receipt in worker.work(row):
                    found.put(receipt)
            found.put(None)
        except BaseException as error:  # handed over to the thread that waits
            found.put(error)

    for _ in range(worker.readers):
        threading.Thread(target=read, name="read", daemon=True).start()
    left = worker.readers
    while left:
        receipt = found.get()
        if isinstance(receipt, BaseException):
            raise receipt
        if receipt is None:
            left -= 1
        else:
            yield receipt
