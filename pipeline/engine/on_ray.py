"""The flow on Ray. Only this file and `cluster.py` import it.

    plan -> board -> pull -> fused workers -> receipts                      (layout `fused`)
    plan -> board -> pull -> read + decode -> predict -> write -> receipts  (layout `split`)

A block of the dataset holds a few rows of the plan: known spans, or an unread shard that its reader cuts into spans.
One dataset and one pool of workers serve the whole run: a task pulls rows from a board, an actor, while the driver is
still planning, and Ray's backpressure holds it back while all workers are busy.

Tried before: a dataset for every 10,000 rows loads models again and drains the pipeline each time, and makes the first
image wait for a listing.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NoReturn

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.engine.board import RowBoard, be_patient, grouped, hear
from pipeline.engine.cluster import address_of, check_shared, connect, import_ray, our_own
from pipeline.engine.layout import Layout, Node, check_gpus, layout_of
from pipeline.engine.loading import Device, device_here, load_predictor
from pipeline.engine.split import SpanDecoder, SpanPredictor
from pipeline.engine.wire import (
    ROW,
    answered_to_table,
    decoded_to_table,
    finished_to_table,
    reports_from_table,
    reports_to_table,
    rows_from_table,
    span_from_table,
)
from pipeline.engine.worker import Worker
from pipeline.errors import ConfigError, DeviceFailed
from pipeline.log import say
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import Row
from pipeline.spec import JobSpec

PULL_CPUS, READ_CPUS, WRITE_CPUS, PREDICT_CPUS = 0.02, 0.8, 0.1, 0.05  # they fit into one CPU together
# Rows that a worker reads at the same time, while others drain. More on a GPU, whose batches fill fast; fewer on a CPU,
# where the worker that is ready first would take the shards that the others could work on.
GPU_CALLS, CPU_CALLS = 4, 2
AHEAD = 2000  # rows on the board at most
REPORT_S = 0.5  # receipts of a group of small spans leave together at this interval
POLL_S = 2.0  # between two looks for a GPU that is to come


class OnRay:
    """Ray joined or started, sized and ready to execute; `close` leaves it."""

    mode = "ray"

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.ray = import_ray(verbose=config.verbose)
        address = address_of(config.ray_address)
        self.joined = address is not None
        connect(self.ray, address, verbose=config.verbose)
        try:
            self.found = self._layout()
            check_shared(self.ray, config.output)
        except ConfigError:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """Predictors at most."""
        return self.found.workers

    @property
    def layout(self) -> str:
        """See `Engine`."""
        return self.found.said

    def _layout(self) -> Layout:
        nodes = self._nodes()
        if sum(node.cpus for node in nodes) < 1:
            raise ConfigError("the Ray cluster offers no CPU: start it with --num-cpus 1 or more")
        bounds = self.config.worker_range()
        gpus = max((node.gpus for node in nodes), default=0.0)
        check_gpus(self.config.gpus_per_worker, gpus, bounded=bounds is not None)
        return layout_of(nodes, self.config.gpus_per_worker, bounds[1] if bounds else None)

    def _nodes(self) -> list[Node]:
        """What the nodes offer that are there; with `--device gpu` waits until one has a GPU."""
        waited = False
        while True:
            alive = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
            gpus_wanted = self.config.device != "cpu"
            nodes = [Node(has.get("CPU", 0.0), has.get("GPU", 0.0) if gpus_wanted else 0.0) for has in alive]
            if self.config.device != "gpu" or any(node.gpus for node in nodes):
                return nodes
            if not self.joined:
                raise ConfigError("--device gpu: Ray finds no GPU on this machine")
            if not waited:
                say("waiting for a node with a GPU (--device gpu)")
            waited = True
            self._ask_for_gpu()
            time.sleep(POLL_S)

    def _ask_for_gpu(self) -> None:
        """Let an autoscaler know what is wanted."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=[{"GPU": self.config.gpus_per_worker}])

    def device(self, size: tuple[int, int] | None) -> Device:
        """See `Engine`."""
        share = {"num_gpus": self.config.gpus_per_worker, "num_cpus": 0} if self.found.on_gpus else {"num_cpus": 0.1}
        asked = self.ray.remote(**share)(device_here).remote(self.config.device, self.config.dtype, size)
        try:
            found: Device = self.ray.get(asked)
        except Exception as error:
            raise our_own(error) from error
        return found

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished, in any order."""
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )  # a node that is lost takes no rows along, unless it is the driver's
        board = self.ray.remote(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)(RowBoard).remote()
        planning = _Planning(self.ray, board, rows)
        threading.Thread(target=hear, args=(self.ray, board), name="hear", daemon=True).start()
        try:
            for batch in self._dataset(spec, board).iter_batches(batch_size=None, batch_format="pyarrow"):
                reports = reports_from_table(batch)
                planning.done([number for number, receipt in reports if receipt is None])
                yield from (receipt for _, receipt in reports if receipt is not None)
        except Exception as error:
            raise planning.error or our_own(error) from error
        if planning.error is not None:
            raise planning.error

    def _dataset(self, spec: JobSpec, board: Any) -> Any:
        every = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}  # with GPUs Ray wants a size
        one = self.ray.data.TaskPoolStrategy(size=1)
        start = self.ray.data.from_blocks([pa.table({"start": [0]})])  # a read would take a whole CPU
        rows = start.map_batches(pull, fn_args=(board,), compute=one, num_cpus=PULL_CPUS, **every)
        gpus = {"num_gpus": self.config.gpus_per_worker} if self.found.on_gpus else {}
        if self.found.kind == "fused":
            worker = {
                "fn_constructor_args": (spec, self.found.children, board),
                "compute": self._pool(GPU_CALLS if gpus else CPU_CALLS),
            }
            return rows.map_batches(Fused, **worker, num_cpus=self.found.cpus, **gpus, **every)
        read = rows.map_batches(read_step, fn_args=(spec, board), num_cpus=READ_CPUS, **every)
        predictor = {"fn_constructor_args": (spec, board), "compute": self._pool(1)}
        predicted = read.map_batches(Predicting, **predictor, num_cpus=PREDICT_CPUS, **gpus, **every)
        return predicted.map_batches(write_step, fn_args=(spec, board), num_cpus=WRITE_CPUS, **every)

    def _pool(self, calls: int) -> Any:
        bounds = self.config.worker_range() or (self.workers, self.workers)
        size = {"size": bounds[1]} if bounds[0] == bounds[1] else {"min_size": bounds[0], "max_size": bounds[1]}
        return self.ray.data.ActorPoolStrategy(
            **size,
            max_tasks_in_flight_per_actor=max(calls, 2),
            max_concurrent_calls_per_actor=calls,
            enable_true_multi_threading=calls > 1,
        )

    def close(self) -> None:
        """Leave the cluster; one that this run started ends."""
        self.ray.shutdown()


class _Planning:
    """The driver's thread that plans: puts rows on the board, and no more than `AHEAD` that are not done."""

    def __init__(self, ray: Any, board: Any, rows: Iterator[Row]) -> None:
        self.ray, self.board, self.rows = ray, board, rows
        self.error: BaseException | None = None
        self.open = 0
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="plan", daemon=True)
        self.thread.start()

    def done(self, numbers: list[int]) -> None:
        """These rows have reported."""
        if not numbers:
            return
        self.board.done.remote(numbers)
        with self.changed:
            self.open -= len(numbers)
            self.changed.notify_all()

    def _run(self) -> None:
        try:
            for group in grouped(self.rows):
                with self.changed:
                    self.changed.wait_for(lambda: self.open < AHEAD)
                    self.open += len(group)
                self.board.put.remote([group], False)
        except BaseException as error:  # handed over to the thread that waits for receipts
            self.error = error
        self.board.put.remote([], True)


def pull(_: pa.Table, board: Any) -> Iterator[pa.Table]:
    """Rows from the board as they are planned, a Ray task."""
    ray = import_ray(verbose=False)
    index = 0
    while (group := ray.get(board.get.remote(index))) is not None:
        yield pa.table([[number for number, _ in group], [text for _, text in group]], schema=ROW)
        index += 1


class Fused:
    """A worker in an actor of its own."""

    def __init__(self, spec: JobSpec, children: int, board: Any) -> None:
        be_patient(spec, board)
        self.start_again = functools.partial(_start_again, board)
        self.worker = Worker(spec, children, load_predictor(spec), self.start_again)

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Finish the spans of these rows; their receipts, and of every row that it is done."""
        reports: list[tuple[int, Receipt | None]] = []
        told = time.monotonic()
        try:
            for number, row in rows_from_table(rows):
                for receipt in self.worker.work(row):
                    reports.append((number, receipt))
                    if time.monotonic() - told > REPORT_S:
                        yield reports_to_table(reports)
                        reports, told = [], time.monotonic()
                reports.append((number, None))
        except DeviceFailed as error:
            self.start_again(error)
        yield reports_to_table(reports)


def _start_again(board: Any, error: DeviceFailed) -> NoReturn:
    """End this process, for Ray to start another; raises where that has been tried often enough."""
    ray = import_ray(verbose=False)
    if ray.get(board.may_start_again.remote()):
        os._exit(1)
    raise error


_decoders: dict[str, SpanDecoder] = {}  # decoding children are kept between the Ray tasks of a process, for each job


def read_step(rows: pa.Table, spec: JobSpec, board: Any) -> Iterator[pa.Table]:
    """Read and decode, a Ray task."""
    be_patient(spec, board)
    key = spec.place.root
    decoder = _decoders.get(key) or _decoders.setdefault(key, SpanDecoder(spec))
    for number, row in rows_from_table(rows):
        for span in decoder.spans(row):
            if isinstance(span, SpanFacts):
                yield finished_to_table(number, span)
            else:
                yield decoded_to_table(number, *span)
        yield finished_to_table(number, None)


class Predicting:
    """A predictor, an actor on a GPU."""

    def __init__(self, spec: JobSpec, board: Any) -> None:
        self.board = board
        be_patient(spec, board)
        self.predictor = SpanPredictor(spec)

    def __call__(self, block: pa.Table) -> pa.Table:
        """Answer a decoded span; others pass."""
        number, span = span_from_table(block)
        if not isinstance(span, tuple):
            return block
        try:
            return answered_to_table(number, self.predictor.answer(*span))
        except DeviceFailed as error:
            _start_again(self.board, error)


def write_step(block: pa.Table, spec: JobSpec, board: Any) -> pa.Table:
    """Write the span's file, a Ray task."""
    be_patient(spec, board)
    number, span = span_from_table(block)
    if span is None:
        return reports_to_table([(number, None)])
    if isinstance(span, SpanFacts):
        return reports_to_table([(number, Receipt.of_finished(span))])
    if isinstance(span, tuple):
        raise ValueError(f"the span {span[0].facts.name} came to be written without answers")
    began = time.perf_counter()
    facts = span.write(spec)
    return reports_to_table([(number, span.receipt(facts, time.perf_counter() - began))])
