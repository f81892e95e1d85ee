"""The flow on Ray: what it is made of; `steps.py` has what runs in Ray's processes.

    plan -> board -> pull -> fused workers -> receipts                      (layout `fused`)
    plan -> board -> pull -> read + decode -> predict -> write -> receipts  (layout `split`)

A block of the dataset holds a few rows of the plan: known spans, or an unread shard that its reader cuts into spans.
One dataset and one pool of workers serve the whole run: a task pulls rows from a board, an actor, while the driver is
still planning, and Ray's backpressure holds it back while all workers are busy.

Tried before: a dataset for every 10,000 rows loads models again and drains the pipeline each time, and makes the first
image wait for a listing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, cast

import pyarrow as pa

from pipeline import storage
from pipeline.address import address_of, check_answers
from pipeline.config import RunConfig
from pipeline.engine.board import Hearing, Planning, RowBoard
from pipeline.engine.cluster import check_shared, connect, doors, import_ray, our_own
from pipeline.engine.layout import Layout, Node, check_gpus, layout_of
from pipeline.engine.ray_metrics import RayMetrics
from pipeline.engine.steps import Fused, Predicting, pull, read_step, write_step
from pipeline.engine.watch import Watch
from pipeline.engine.wire import reports_from_table
from pipeline.errors import DEVICE_FAILURES, ConfigError, DeviceFailed
from pipeline.log import say, warn
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import Row
from pipeline.spec import Device, JobSpec, Trial

PULL_CPUS, READ_CPUS, WRITE_CPUS, PREDICT_CPUS = 0.02, 0.8, 0.1, 0.05  # they fit into one CPU together
# Rows that a worker reads at the same time, while others drain. More on a GPU, whose batches fill fast; fewer on a CPU,
# where the worker that is ready first would take the shards that the others could work on.
GPU_CALLS, CPU_CALLS = 4, 2
POLL_S = 2.0  # between two looks for a GPU that is to come


class OnRay:
    """Ray joined or started, sized and ready to execute; `close` leaves it."""

    mode = "ray"

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.ray = import_ray(verbose=config.verbose)
        address = address_of(config.ray_address)
        check_answers(address)
        self.joined = address is not None
        self.asked = False  # an autoscaler for a GPU
        connect(self.ray, address, verbose=config.verbose)
        self.watch: Watch | None = None
        try:
            if self.joined:
                self.watch = Watch(doors(self.ray))
            self.sink = RayMetrics(self.ray)
            self.layout = self._layout()
            check_shared(self.ray, config.output)
        except BaseException:  # Ctrl-C too, while a GPU is waited for
            self.close()
            raise

    @property
    def workers(self) -> int:
        """Predictors at most."""
        return self.layout.workers

    @property
    def decoders(self) -> int:
        """See `Engine`; in the split layout as many as there are CPUs to read on."""
        return self.layout.children * (self.workers if self.layout.kind == "fused" else self.layout.readers)

    @property
    def description(self) -> str:
        """See `Engine`."""
        return self.layout.said

    def _layout(self) -> Layout:
        nodes = self._nodes()
        if sum(node.cpus for node in nodes) < 1:
            raise ConfigError("the Ray cluster offers no CPU: start it with --num-cpus 1 or more")
        bounds = self.config.worker_range()
        gpus = max((node.gpus for node in nodes), default=0.0)
        check_gpus(self.config.gpus_per_worker, gpus, bounded=bounds is not None)
        least, most = bounds or (None, None)
        return layout_of(nodes, self.config.gpus_per_worker, most, least)

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
            self.asked = True
            self._request({"GPU": self.config.gpus_per_worker})
            time.sleep(POLL_S)

    def _request(self, *bundles: dict[str, float]) -> None:
        """Let an autoscaler know what is wanted; it remembers that until it is told otherwise."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=list(bundles))

    def device(self, trial: Trial) -> Device:
        """See `Engine`."""
        from pipeline.engine.loading import device_here, device_there  # here: a run with nothing to do needs no torch

        if not self.joined and not self.layout.on_gpus:
            return device_here(trial)  # workers have this machine's CPU, and a new process takes two seconds to ask it
        share = {"num_gpus": self.config.gpus_per_worker, "num_cpus": 0} if self.layout.on_gpus else {"num_cpus": 0.1}
        places = [storage.absolute(given) for given in (*self.config.input, self.config.output)]
        remote = [place for place in places if not storage.is_local(place)]
        found = self._answer(self.ray.remote(**share)(device_there), trial, remote)
        if self.layout.on_gpus and found.kind == "cpu":
            warn("Ray gives GPUs out, and torch finds none there that works: one core predicts in the place of each")
        return found

    def _answer(self, task: Any, trial: Trial, places: list[str]) -> Device:
        """What a worker says of its device; where that fails, another process is asked, DEVICE_FAILURES times."""
        failures = 0
        while True:
            try:
                return cast("Device", self.ray.get(task.remote(trial, places)))
            except Exception as error:
                known = our_own(error)
                if not isinstance(known, DeviceFailed) or failures == DEVICE_FAILURES:
                    raise known from error
                failures += 1
                say(f"{known}; starting again ({failures} of {DEVICE_FAILURES})", "warning")

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished, in any order."""
        here = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self.ray.get_runtime_context().get_node_id(), soft=False
        )  # a node that is lost takes no rows along, unless it is the driver's
        actor = self.ray.remote(num_cpus=0, max_concurrency=1000, scheduling_strategy=here)(RowBoard)
        board = actor.remote(self.workers)
        planning = Planning(board, rows, self.workers)
        hearing = Hearing(self.ray, board)
        try:
            for batch in self._dataset(spec, board).iter_batches(batch_size=None, batch_format="pyarrow"):
                reports = reports_from_table(batch)
                planning.done([number for number, receipt in reports if receipt is None])
                yield from (receipt for _, receipt in reports if receipt is not None)
        except Exception as error:
            raise planning.error or our_own(error) from error
        finally:
            planning.end()
            hearing.end()
        if planning.error is not None:
            raise planning.error

    def _dataset(self, spec: JobSpec, board: Any) -> Any:
        every = {"batch_size": 1, "batch_format": "pyarrow", "zero_copy_batch": True}  # with GPUs Ray wants a size
        one = self.ray.data.TaskPoolStrategy(size=1)
        start = self.ray.data.from_blocks([pa.table({"start": [0]})])  # a read would take a whole CPU
        rows = start.map_batches(pull, fn_args=(board,), compute=one, num_cpus=PULL_CPUS, **every)
        gpus = {"num_gpus": self.config.gpus_per_worker} if self.layout.on_gpus else {}
        if self.layout.kind == "fused":
            worker = {
                "fn_constructor_args": (spec, self.layout.children, board),
                "compute": self._pool(GPU_CALLS if gpus else CPU_CALLS),
            }
            return rows.map_batches(Fused, **worker, num_cpus=self.layout.cpus, **gpus, **every)
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
        try:
            if self.asked:
                self._request()  # else the node with the GPU would stay for ever
        except Exception as error:  # of a cluster that is gone, in many types
            warn(f"the GPU that the autoscaler was asked for may stay ({type(error).__name__}): look after its nodes")
        finally:
            if self.watch is not None:
                self.watch.end()
            self.ray.shutdown()
