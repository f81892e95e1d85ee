"""What runs in Ray's processes: the task that pulls rows, the fused worker, and the three steps of the split layout.

Only what predicts imports torch: the others would take the CPU from it for a second, just when all are starting.
"""

from __future__ import annotations

import functools
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, NoReturn, TypeVar

import pyarrow as pa

from pipeline import storage
from pipeline.engine.board import BEGINNINGS, wait_as_the_run
from pipeline.engine.cluster import import_ray
from pipeline.engine.span_decoder import SpanDecoder, SpanPixels
from pipeline.engine.wire import (
    answered_to_table,
    decoded_to_table,
    finished_to_table,
    reports_to_table,
    rows_from_table,
    rows_to_table,
    span_from_table,
)
from pipeline.errors import DeviceFailed, PipelineError
from pipeline.output.place import Place
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import LooseSpan, Row
from pipeline.spec import JobSpec

REPORT_S = 2.0  # receipts of a group of small spans leave together at this interval
Made = TypeVar("Made")


def pull(_: pa.Table, board: Any) -> Iterator[pa.Table]:
    """Rows from the board as they are planned, a Ray task."""
    ray = import_ray(verbose=False)
    index = 0
    while (group := ray.get(board.get.remote(index))) is not None:
        yield rows_to_table(group)
        index += 1


class _AtStart(Generic[Made]):
    """What an actor works with, made as it starts; what is in its way then is raised when it is first asked for.

    That ends the run, unless it is the device's fault. An actor that fails to start is started again by Ray, many
    times, and each would wait anew for a storage that is away, or for a GPU that does not answer.
    """

    def __init__(self, spec: JobSpec, board: Any, make: Callable[[], Made]) -> None:
        wait_as_the_run(spec, board)
        try:
            _check_place(spec.place)
            self.made: Made | PipelineError = make()
        except PipelineError as error:
            self.made = error

    def get(self) -> Made:
        """It, or the error."""
        if isinstance(self.made, PipelineError):
            raise self.made
        return self.made


class Fused:
    """A worker in an actor of its own."""

    def __init__(self, spec: JobSpec, children: int, board: Any) -> None:
        from pipeline.engine.worker import Worker

        self.ray = import_ray(verbose=False)
        self.board, self.start_again = board, functools.partial(_start_again, board)
        self.worker = _AtStart(spec, board, lambda: Worker(spec, children, hung=self.start_again))

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        """Finish the spans of these rows; their receipts, and of every row that it is done.

        Where a process died over them, Ray passes by as many blocks of the next one's as it had of the first one's, and
        an error in their place. So empty ones come before what there is to say.
        """
        reports: list[tuple[int, Receipt | None]] = []
        told, given = time.monotonic(), rows_from_table(rows)
        numbers = [number for number, _ in given]
        before, is_hopeless = self.ray.get(self.board.begin.remote(numbers))
        for _ in range(before):
            yield reports_to_table([])
        if is_hopeless:
            raise PipelineError(_hopeless([row for _, row in given]))
        try:
            worker = self.worker.get()
            for number, row in given:
                for receipt in worker.work(row):
                    reports.append((number, receipt))
                    if time.monotonic() - told > REPORT_S:
                        yield reports_to_table(reports)
                        self.ray.get(self.board.report.remote(numbers))
                        reports, told = [], time.monotonic()
                reports.append((number, None))
        except DeviceFailed as error:
            self.start_again(error)
        yield reports_to_table(reports)


def _hopeless(rows: list[Row]) -> str:
    """What is said of rows that end every process."""
    row, more = rows[0], f" and {len(rows) - 1} more" if len(rows) > 1 else ""
    what = f"the span {row.name}" if isinstance(row, LooseSpan) else row.shard.uri
    return (
        f"{BEGINNINGS} workers in a row have died over {what}{more}: is their memory too small, or does an input end "
        "them? What is finished is safe, the same command continues"
    )


def _check_place(place: Place) -> None:
    """Raise PipelineError where a local output is not on this node, which may have joined the cluster lately."""
    if storage.is_local(place.root) and storage.stat(place.bound_file) is None:
        raise PipelineError(f"--output {place.root} is not there on the node {socket.gethostname()}: use s3://...")


def _start_again(board: Any, error: DeviceFailed) -> NoReturn:
    """End this process, for Ray to start another; raises where that has been tried often enough."""
    ray = import_ray(verbose=False)
    if ray.get(board.may_start_again.remote(ray.get_runtime_context().get_worker_id())):
        os._exit(1)
    raise error


_decoders: dict[str, SpanDecoder] = {}  # one at most, by its output: the next Ray task of this process finds its child


def _decoder(spec: JobSpec) -> SpanDecoder:
    """The one that the last Ray task has left, where it was of the same output."""
    for other in _decoders.keys() - {spec.place.root}:
        _decoders.pop(other).close()
    return _decoders.get(spec.place.root) or _decoders.setdefault(spec.place.root, SpanDecoder(spec))


def read_step(rows: pa.Table, spec: JobSpec, board: Any) -> Iterator[pa.Table]:
    """Read and decode, a Ray task."""
    wait_as_the_run(spec, board)
    _check_place(spec.place)
    decoder = _decoder(spec)
    for number, row in rows_from_table(rows):
        for span in decoder.spans(row):
            if isinstance(span, Receipt):
                yield finished_to_table(number, span)
            else:
                yield decoded_to_table(number, *span)
        yield finished_to_table(number, None)


class Predicting:
    """A predictor, an actor on a GPU."""

    def __init__(self, spec: JobSpec, board: Any) -> None:
        from pipeline.engine.span_predictor import SpanPredictor

        self.board = board
        self.predictor = _AtStart(spec, board, lambda: SpanPredictor(spec))

    def __call__(self, block: pa.Table) -> pa.Table:
        """Answer a decoded span; others pass."""
        number, span = span_from_table(block)
        if not isinstance(span, SpanPixels):
            return block
        try:
            return answered_to_table(number, self.predictor.get().answer(*span))
        except DeviceFailed as error:
            _start_again(self.board, error)


def write_step(block: pa.Table, spec: JobSpec, board: Any) -> pa.Table:
    """Write the span's file, a Ray task."""
    wait_as_the_run(spec, board)
    _check_place(spec.place)
    number, span = span_from_table(block)
    if span is None or isinstance(span, Receipt):
        return reports_to_table([(number, span)])
    if isinstance(span, SpanPixels):
        raise ValueError(f"the span {span.span.facts.name} came to be written without answers")
    began = time.perf_counter()
    facts = span.write(spec)
    return reports_to_table([(number, span.receipt(facts, time.perf_counter() - began))])
