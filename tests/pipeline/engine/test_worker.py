"""A worker and its model: what the model gets, and what happens when it, or its device, fails."""

import builtins
import json
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from label import Label

from beit_core import ModelCard, PixelSpec, load_card
from pipeline.config import RunConfig
from pipeline.engine.engine import work_in_threads
from pipeline.engine.loading import fitting
from pipeline.engine.predictor import Asked, Predictor, Step
from pipeline.engine.under_way import SpanUnderWay
from pipeline.engine.worker import Worker
from pipeline.errors import ConfigError, DeviceFailed, PipelineError, StorageError
from pipeline.output.ledger import Ledger
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.request import Request, begin, checked
from pipeline.spec import Device, JobSpec
from pipeline.task import Batch, Columns, Task
from tests import flow
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, tree_bytes


class Moody(torch.nn.Module):
    """Means of the pixels; raises `error` for more than `most` images at a time, or for a picture as dark as `dark`."""

    def __init__(self, error: str, most: int) -> None:
        super().__init__()
        self.error, self.most = error, most

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > self.most:
            kind: type[Exception] = getattr(torch, self.error, getattr(builtins, self.error, RuntimeError))
            raise kind(f"{self.error} of {len(pixels)} images")
        return pixels.mean((1, 2, 3))


@dataclass(frozen=True)
class Mean(Task):
    name: ClassVar[str] = "mean"
    error: str = "OutOfMemoryError"
    most: int = 1 << 30

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"mean": pa.float32()}

    def settings(self, card: ModelCard) -> dict[str, Any]:  # noqa: ARG002 - its moods change no answer
        return {}

    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        return Moody(self.error, self.most)

    def predict(self, model: Any, batch: Batch) -> Columns:
        return {"mean": model(batch.pixels)}


class Watching(Predictor):
    """Remembers what it was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: list[Asked] = []

    def step(self, asked: Asked) -> Step:
        self.asked.append(asked)
        return super().step(asked)


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(flow.TASKS, "mean", Mean)
    for shard in range(3):
        make_tar(tmp_path / f"in/{shard}.tar", [(f"{n:03d}.png", png(shard * 40 + n)) for n in range(40)])
    return tmp_path / "in"


@pytest.mark.parametrize(
    "error",
    [
        "OutOfMemoryError",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "GET was unable to find an engine to execute this computation",
        "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to",
        "MemoryError",
    ],
)
def test_batches_are_halved_until_the_device_has_memory_for_them(
    error: str, shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = {"span_size": 32, "batch_size": 16, "workers": "1"}
    assert run_here(shards, tmp_path / "calm", "mean", **sizes) == 0
    assert run_here(shards, tmp_path / "out", "mean", **sizes, most=5, error=error) == 0
    assert capsys.readouterr().err.count("in parts: 4 images at once") == 1
    (report,) = (tmp_path / "out/runs").glob("*.json")
    assert json.loads(report.read_text())["images_at_once"] == 4
    assert rows(tmp_path / "out").equals(rows(tmp_path / "calm"))
    assert set(rows(tmp_path / "out")["status"].to_pylist()) == {"ok"}


@pytest.mark.parametrize(("most", "fits"), [(99, 32), (20, 16), (7, 4), (1, 1)])
def test_a_trial_finds_the_batch_that_fits(most: int, fits: int) -> None:
    task, card = Mean(most=most), load_card(DIGITS / "model")
    assert fitting(Predictor(task, card, dtype="float32", batch_size=32)) == fits


@pytest.mark.parametrize(
    ("error", "said"), [("OutOfMemoryError", "too little memory for one image"), ("nonsense", "the model failed")]
)
def test_a_trial_that_fails_is_no_batch_size(error: str, said: str) -> None:
    task, card = Mean(most=0, error=error), load_card(DIGITS / "model")
    with pytest.raises(ConfigError, match=f"a batch cannot be computed here: .*{said}"):
        fitting(Predictor(task, card, dtype="float32", batch_size=32))


def test_an_image_that_no_memory_is_enough_for_is_a_row(shards: Path, tmp_path: Path) -> None:
    assert run_here(shards, tmp_path / "out", "mean", most=0, max_failed=1) == 0
    table = rows(tmp_path / "out")
    assert set(table["status"].to_pylist()) == {"predict_error"}
    assert "too little memory for one image" in table["error"][0].as_py()


def test_a_device_that_fails_ends_the_run_and_the_same_command_continues(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceFailed, match="AcceleratorError of 16 images"):
        run_here(shards, tmp_path / "out", "mean", batch_size=16, error="AcceleratorError", most=0)
    assert run_here(shards, tmp_path / "out", "mean", batch_size=16) == 0
    assert run_here(shards, tmp_path / "calm", "mean", batch_size=16) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "calm/data")


class Misspelt(Mean):
    def predict(self, model: Any, batch: Batch) -> Columns:
        return {"maen": model(batch.pixels)}


def test_a_task_that_answers_in_other_columns_than_it_has_ends_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flow.TASKS, "mean", Misspelt)
    with pytest.raises(PipelineError, match="task mean says that its columns are mean, and answers maen"):
        run_here(shards, tmp_path / "out", "mean", batch_size=16)
    assert not any((tmp_path / "out/data").glob("*.parquet"))


@dataclass(frozen=True)
class AsItIs(Mean):
    def pixel_specs(self, card: ModelCard) -> tuple[PixelSpec, ...]:  # noqa: ARG002 - as above
        return (PixelSpec(resize=None),)


def test_pixels_of_images_with_a_size_of_their_own_do_not_wait_for_their_span(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flow.TASKS, "mean", AsItIs)
    held: list[int] = []
    finish = SpanUnderWay.finish

    def look(span: SpanUnderWay) -> None:
        held.extend(len(answer.views) for answer in span.decoded if answer is not None)
        finish(span)

    monkeypatch.setattr(SpanUnderWay, "finish", look)
    assert run_here(shards, tmp_path / "out", "mean", batch_size=1) == 0
    assert held == [0] * 120
    assert set(rows(tmp_path / "out")["status"].to_pylist()) == {"ok"}


class Together(torch.nn.Module):
    """Answers once six threads ask at the same time; raises where they never do."""

    barrier: ClassVar[threading.Barrier] = threading.Barrier(6)
    asked: ClassVar[list[torch.nn.Module]] = []

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.asked.append(self)
        self.barrier.wait(timeout=60)
        return pixels.mean((1, 2, 3))


@dataclass(frozen=True)
class Meeting(Mean):
    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        return Together()


def test_as_many_predictors_as_wanted_work_at_once_each_with_a_model_of_its_own(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(flow.TASKS, "meeting", Meeting)
    assert run_here(shards, tmp_path / "out", "meeting", batch_size=20, span_size=20, workers="6") == 0
    assert len(set(Together.asked)) == 6
    (report,) = (tmp_path / "out/runs").glob("*.json")
    assert json.loads(report.read_text())["workers"] == 6
    assert run_here(shards, tmp_path / "one", "mean", batch_size=20, span_size=20, workers="1") == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "one/data")


def bound(tmp_path: Path) -> tuple[Request, JobSpec]:
    """A command for eight images in a shard, and what workers are to know of it."""
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(8)])
    request = checked(RunConfig((str(tmp_path / "in"),), str(tmp_path / "out"), str(DIGITS / "model")), Label())
    return request, begin(request, lambda: Device("cpu", "cpu", "float32", 4))


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
    asleep = threading.Event()

    class Hung(Predictor):
        def step(self, asked: Asked) -> Step:
            asleep.wait(60)
            return super().step(asked)

    def refuse(error: DeviceFailed) -> None:
        raise error

    predictor = Hung(spec.task, load_card(DIGITS / "model"), dtype="float32", batch_size=spec.bound.batch_size)
    worker = Worker(spec, 1, lambda _: predictor, hung=refuse)
    planner = Planner(spec.place, Ledger.load(spec.place), PlanSettings(spec.bound.span_size, spec.wanted))
    try:
        with pytest.raises(DeviceFailed, match="has not answered"):
            list(work_in_threads(worker, planner.rows(request.sources.listing())))
    finally:
        asleep.set()
        worker.close()


def test_a_predictor_that_cannot_load_its_model_ends_the_worker(tmp_path: Path) -> None:
    request, spec = bound(tmp_path)
    failed = threading.Event()

    class Busy(Predictor):
        def step(self, asked: Asked) -> Step:
            failed.wait(60)  # so that the other one has to take a batch
            return super().step(asked)

    def load(spec: JobSpec) -> Predictor:
        if threading.current_thread() is not threading.main_thread():
            failed.set()
            raise StorageError("the weights are gone")
        return Busy(spec.task, load_card(DIGITS / "model"), dtype="float32", batch_size=spec.bound.batch_size)

    worker = Worker(spec, 1, load, predictors=2)
    planner = Planner(spec.place, Ledger.load(spec.place), PlanSettings(spec.bound.span_size, spec.wanted))
    try:
        with pytest.raises(StorageError, match="the weights are gone"):
            list(work_in_threads(worker, planner.rows(request.sources.listing())))
    finally:
        worker.close()


def test_the_model_reads_the_memory_that_children_write(tmp_path: Path) -> None:
    """No copy on the way: what the model is asked about lies in the ring."""
    request, spec = bound(tmp_path)
    planner = Planner(spec.place, Ledger.load(spec.place), PlanSettings(spec.bound.span_size, spec.wanted))
    card = load_card(DIGITS / "model")
    predictor = Watching(spec.task, card, dtype="float32", batch_size=spec.bound.batch_size)
    worker = Worker(spec, 1, lambda _: predictor)
    try:
        found = list(work_in_threads(worker, planner.rows(request.sources.listing())))
        assert [receipt.images for receipt in found] == [8]
        assert len(predictor.asked) == 2
        assert worker.ring is not None
        memory = worker.ring.memory
        assert all(np.shares_memory(view, memory) for asked in predictor.asked for view in asked.views)
    finally:
        worker.close()
