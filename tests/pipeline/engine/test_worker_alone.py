"""A worker without a run: what its predictors do, and how it ends."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from label import Label

from beit_core import load_card
from pipeline.config import RunConfig
from pipeline.engine.engine import work_in_threads
from pipeline.engine.loading import fitting
from pipeline.engine.predictor import Asked, Predictor, Step
from pipeline.engine.span_decoder import SpanDecoder
from pipeline.engine.span_predictor import SpanPredictor
from pipeline.engine.worker import Worker
from pipeline.errors import DeviceFailed, StorageError
from pipeline.output.ledger import Ledger
from pipeline.output.receipts import Receipt
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.request import Request, begin, checked
from pipeline.spec import Device, JobSpec
from tests.flow import DIGITS, make_tar, png

P = TypeVar("P", bound=Predictor)


class Watching(Predictor):
    """Remembers what it was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[Asked] = []

    def step(self, asked: Asked) -> Step:
        self.asked.append(asked)
        return super().step(asked)


class Hung(Predictor):
    """Answers nothing until it is awake."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.awake = threading.Event()

    def step(self, asked: Asked) -> Step:
        self.awake.wait(60)
        return super().step(asked)


def bound(tmp_path: Path) -> tuple[Request, JobSpec]:
    """A command for eight images in a shard, and what workers are to know of it."""
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(8)])
    request = checked(RunConfig((str(tmp_path / "in"),), str(tmp_path / "out"), str(DIGITS / "model")), Label())
    return request, begin(request, lambda: Device("cpu", "cpu", "float32", 4))


def work_of(request: Request, spec: JobSpec, worker: Worker) -> list[Receipt]:
    """What the worker reports of the command's images."""
    planner = Planner(spec.place, Ledger.load(spec.place), PlanSettings(spec.bound.span_size, spec.wanted))
    return list(work_in_threads(worker, planner.rows(request.sources.listing())))


def of_digits(kind: type[P], spec: JobSpec) -> P:
    """A predictor of this kind, with a model that tells digits."""
    return kind(spec.task, load_card(DIGITS / "model"), dtype="float32", batch_size=spec.bound.batch_size)


def is_first() -> bool:
    """Whether the model that is loaded now is the worker's first one; others are loaded by threads of their own."""
    return threading.current_thread() is threading.main_thread()


def test_a_worker_that_was_given_a_gpu_does_not_fall_back_on_its_cpu(tmp_path: Path) -> None:
    spec = replace(bound(tmp_path)[1], device_kind="cuda")
    with pytest.raises(DeviceFailed, match="no GPU answers on"):
        Worker(spec, 1)


def test_a_hung_device_whose_process_may_not_start_again_ends_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.engine.worker.HANG_S", 0.2)
    monkeypatch.setattr("pipeline.engine.worker.WATCH_S", 0.1)
    request, spec = bound(tmp_path)

    def refuse(error: DeviceFailed) -> None:
        raise error

    predictor = of_digits(Hung, spec)
    worker = Worker(spec, 1, lambda _: predictor, hung=refuse)
    try:
        with pytest.raises(DeviceFailed, match="has not answered"):
            work_of(request, spec, worker)
    finally:
        predictor.awake.set()
        worker.close()


def test_a_device_that_hangs_where_no_worker_watches_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is asked what fits into its memory, or in the split layout."""
    monkeypatch.setattr("pipeline.engine.device.HANG_S", 0.2)
    request, spec = bound(tmp_path)
    predictor = of_digits(Hung, spec)
    monkeypatch.setattr("pipeline.engine.span_predictor.load_predictor", lambda _: predictor)
    decoder = SpanDecoder(spec)
    try:
        span = decoder.sample(request.sources.listing(), 4)
        with pytest.raises(DeviceFailed, match="has not answered for"):
            fitting(predictor)
        with pytest.raises(DeviceFailed, match="has not answered for"):
            SpanPredictor(spec).answer(*span)
    finally:
        predictor.awake.set()
        decoder.close()


def test_a_predictor_that_cannot_load_its_model_ends_the_worker(tmp_path: Path) -> None:
    request, spec = bound(tmp_path)
    failed = threading.Event()

    class Busy(Predictor):
        def step(self, asked: Asked) -> Step:
            failed.wait(60)  # so that the other one has to take a batch
            return super().step(asked)

    def load(spec: JobSpec) -> Predictor:
        if not is_first():
            failed.set()
            raise StorageError("the weights are gone")
        return of_digits(Busy, spec)

    worker = Worker(spec, 1, load, predictors=2)
    try:
        with pytest.raises(StorageError, match="the weights are gone"):
            work_of(request, spec, worker)
    finally:
        worker.close()


def test_a_span_tells_of_the_predictor_that_has_too_little_memory(tmp_path: Path) -> None:
    request, spec = bound(tmp_path)
    done = threading.Event()

    class First(Predictor):
        def step(self, asked: Asked) -> Step:
            done.wait(60)  # so that the other one has to take a batch
            return super().step(asked)

    class Second(Predictor):
        def step(self, asked: Asked) -> Step:
            self.at_once = self.fewest = 2  # as after it ran out of memory
            step = super().step(asked)
            done.set()
            return step

    worker = Worker(spec, 1, lambda spec: of_digits(First if is_first() else Second, spec), predictors=2)
    try:
        (receipt,) = work_of(request, spec, worker)
    finally:
        worker.close()
    assert receipt.device.at_once == 2


def test_the_model_reads_the_memory_that_children_write(tmp_path: Path) -> None:
    """No copy on the way: what the model is asked about lies in the ring."""
    request, spec = bound(tmp_path)
    predictor = Watching(spec.task, load_card(DIGITS / "model"), dtype="float32", batch_size=spec.bound.batch_size)
    worker = Worker(spec, 1, lambda _: predictor)
    try:
        found = work_of(request, spec, worker)
        assert [receipt.images for receipt in found] == [8]
        assert len(predictor.asked) == 2
        assert worker.ring is not None
        memory = worker.ring.memory
        assert all(np.shares_memory(view, memory) for asked in predictor.asked for view in asked.views)
    finally:
        worker.close()
