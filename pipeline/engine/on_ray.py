"""The flow on Ray. The only file that imports it.

    plan (streaming) -> skip finished -> read + decode -> predict -> write -> receipts

A row of the dataset is a span, or an unread shard that its reader cuts into spans. With GPUs, reading and writing are
Ray tasks and predictors are actors; without, all steps run fused in one actor per core, so that no pixel crosses the
object store. Rows come in waves: planning runs ahead in a thread, so a long listing does not hold up the work.
"""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.engine.cluster import address_of
from pipeline.engine.steps import SpanWorker, load_predictor, predict, write
from pipeline.engine.wire import (
    loaded_from_table,
    loaded_to_table,
    receipts_to_table,
    row_to_table,
    rows_from_table,
)
from pipeline.errors import ConfigError, PipelineError
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import Row
from pipeline.spec import JobSpec

WAVE_ROWS = 10_000  # dataset rows of one wave at most
WAVE_S = 30.0  # how long a wave waits for more rows while the cluster has nothing to do
NO_PROGRESS_S = 24 * 3600  # Ray gives up a run without progress; waiting for capacity overnight is no failure
PATIENT_STARTS = 3  # deaths of starting actors in a row that Ray forgives (a flaky download of weights)
READ_CPUS, WRITE_CPUS, GPU_ACTOR_CPUS = 0.8, 0.1, 0.05  # they fit into one CPU together, so no step can starve another
FUSED_SHARE = 0.9  # of the CPUs go to fused actors; Ray needs a rest for itself, or it waits for ever


def _import_ray(*, verbose: bool) -> Any:
    """Ray, with its noise kept off the screen; it must be told before it is imported."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        os.environ.setdefault("RAY_LOG_TO_DRIVER_EVENT_LEVEL", "FATAL")
    import ray
    import ray.data

    if not verbose:
        for name in ("ray", "ray.data", "ray._private.worker", "ray.train"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Ray's native part greets on file descriptor 2 whatever the log level; what matters comes as an exception."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class OnRay:
    """Ray joined or started, sized and ready to execute; `close` leaves it."""

    mode = "ray"

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.ray = _import_ray(verbose=config.verbose)
        self._connect(address_of(config.ray_address))
        resources = self.ray.cluster_resources()
        self.cpus, self.gpus = float(resources.get("CPU", 0)), float(resources.get("GPU", 0))
        if self.cpus < 1:
            self.close()
            raise ConfigError("the Ray cluster offers no CPU: start it with --num-cpus 1 or more")
        if 0 < self.gpus < config.gpus_per_worker and config.worker_range() is None:
            self.close()
            raise ConfigError(f"--gpus-per-worker {config.gpus_per_worker:g}: the Ray cluster has {self.gpus:g} GPUs")
        fitting = int(self.gpus // config.gpus_per_worker) if self.gpus else int(self.cpus)
        self.least, self.most = config.worker_range() or (max(1, fitting), max(1, fitting))

    @property
    def workers(self) -> int:
        """Predictors at most."""
        return self.most

    def _connect(self, address: str | None) -> None:
        root = str(Path(__file__).parents[2])
        options: dict[str, Any] = {"log_to_driver": self.config.verbose, "logging_level": logging.CRITICAL}
        if self.config.verbose:
            options["logging_level"] = logging.INFO
        if address is None:
            os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
            options |= {"address": "local", "include_dashboard": False}
        else:
            options["address"] = address
            if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # `ray job submit` has shipped the code already
                options["runtime_env"] = {"py_modules": [str(Path(root, name)) for name in ("beit_core", "pipeline")]}
        self._init(address, options)
        context = self.ray.data.DataContext.get_current()
        context.enable_progress_bars = self.config.verbose
        context.print_on_execution_start = self.config.verbose
        context.enable_auto_log_stats = self.config.verbose
        context.execution_no_progress_timeout_s = NO_PROGRESS_S
        context.max_consecutive_actor_init_deaths = PATIENT_STARTS
        context.target_max_block_size = 1 << 20  # every span leaves as soon as it is there, in a block of its own

    def _init(self, address: str | None, options: dict[str, Any]) -> None:
        try:
            with nullcontext() if self.config.verbose else _no_stderr():
                self.ray.init(**options)
        except Exception as error:  # a node that starts too slowly raises just that
            told = str(error).strip().partition("\n")[0] or type(error).__name__
            if address is not None:
                raise ConfigError(f"no Ray cluster at {address}: {told}") from error
            again = "give the same command again, or --local to do without Ray"
            raise PipelineError(f"Ray did not start on this machine ({told}): {again}") from error

    def resolve_dtype(self) -> str:
        """What `--dtype auto` means on a worker that will predict."""

        def ask() -> str:
            from pipeline.engine.predictor import auto_dtype

            return auto_dtype()

        share = {"num_gpus": self.config.gpus_per_worker, "num_cpus": 0} if self.gpus else {"num_cpus": 0.1}
        answer: str = self.ray.get(self.ray.remote(**share)(ask).remote())
        return answer

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished, in any order."""
        for wave in _waves(rows):
            blocks = [row_to_table(row) for row in wave]
            try:
                for batch in self._dataset(spec, blocks).iter_batches(batch_size=None, batch_format="pyarrow"):
                    yield from map(Receipt.from_json, batch["receipt"].to_pylist())
            except Exception as error:
                raise _our_own(error) from error

    def _dataset(self, spec: JobSpec, blocks: list[pa.Table]) -> Any:
        data = self.ray.data.from_arrow(blocks)
        least, most = (min(count, len(blocks)) for count in (self.least, self.most))
        pool = {"size": most} if least == most else {"min_size": least, "max_size": most, "initial_size": least}
        actors = self.ray.data.ActorPoolStrategy(**pool)
        every = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}
        if not self.gpus:
            share = min(1.0, FUSED_SHARE * self.cpus / self.most)
            return data.map_batches(Fused, fn_constructor_args=(spec,), compute=actors, num_cpus=share, **every)
        tasks = self.ray.data.TaskPoolStrategy(size=max(1, int(self.cpus)))
        gpus = {"num_gpus": self.config.gpus_per_worker, "num_cpus": GPU_ACTOR_CPUS}
        readers = data.map_batches(read_step, fn_args=(spec,), compute=tasks, num_cpus=READ_CPUS, **every)
        most = self.ray.data.ActorPoolStrategy(size=self.most) if self.least == self.most else actors
        predicted = readers.map_batches(Predicting, fn_constructor_args=(spec,), compute=most, **gpus, **every)
        return predicted.map_batches(write_step, fn_args=(spec,), num_cpus=WRITE_CPUS, **every)

    def close(self) -> None:
        """Leave the cluster; one that this run started ends."""
        self.ray.shutdown()


class Fused:
    """All steps of a row in one actor."""

    def __init__(self, spec: JobSpec) -> None:
        self.worker = SpanWorker(spec)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for row in rows_from_table(rows):
            for receipt in self.worker(row):
                yield receipts_to_table([receipt])


_readers: dict[str, SpanWorker] = {}  # one decoding child per Ray worker process and job, kept between Ray tasks


def read_step(rows: pa.Table, spec: JobSpec) -> Iterator[pa.Table]:
    """Read and decode, a Ray task."""
    worker = _readers.get(spec.place.root) or _readers.setdefault(spec.place.root, SpanWorker(spec))
    for row in rows_from_table(rows):
        for loaded in worker.reader(row):
            yield loaded_to_table(loaded)


class Predicting:
    """A predictor, an actor on a GPU."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.predictor = load_predictor(spec)

    def __call__(self, rows: pa.Table) -> pa.Table:
        loaded = loaded_from_table(rows)
        return loaded_to_table(loaded if loaded.done else predict(self.spec, self.predictor, loaded))


def write_step(rows: pa.Table, spec: JobSpec) -> pa.Table:
    """Write the span's file, a Ray task."""
    loaded = loaded_from_table(rows)
    return receipts_to_table([Receipt.of_finished(loaded.facts) if loaded.done else write(spec, loaded)])


def _waves(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows in lists: what planning has ready, after a short wait, while it goes on planning."""
    ready: queue.Queue[Row | BaseException | None] = queue.Queue(maxsize=WAVE_ROWS)

    def plan() -> None:
        try:
            for row in rows:
                ready.put(row)
            ready.put(None)
        except BaseException as error:  # handed over to the thread that waits for rows
            ready.put(error)

    threading.Thread(target=plan, daemon=True).start()
    row: Row | BaseException | None = ready.get()
    while isinstance(row, Row):
        wave = [row]
        deadline = time.monotonic() + WAVE_S
        following: Row | BaseException | None = LATE
        while len(wave) < WAVE_ROWS and isinstance(following := _next_row(ready, deadline), Row):
            wave.append(following)
        yield wave
        row = ready.get() if following is LATE or len(wave) == WAVE_ROWS else following
    if row is not None:
        raise row


LATE = TimeoutError("planning has no row ready")


def _next_row(ready: queue.Queue[Row | BaseException | None], deadline: float) -> Row | BaseException | None:
    try:
        return ready.get(timeout=max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return LATE


def _our_own(error: BaseException) -> BaseException:
    """The error of ours that Ray has wrapped, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        cause = getattr(seen, "cause", None)
        for candidate in (seen, cause):
            if isinstance(candidate, PipelineError):
                # Ray makes a class of its own out of ours and puts the worker's traceback into its text.
                ours = next(kind for kind in type(candidate).__mro__ if kind.__module__ == PipelineError.__module__)
                plain: BaseException = ours(str(getattr(candidate, "cause", candidate)))
                return plain
        seen = cause if isinstance(cause, BaseException) and cause is not seen else seen.__cause__
    return error
