"""A worker and its model: what the model gets, and what happens when it, or its device, fails."""

import builtins
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch

from beit_core import ModelCard, PixelSpec, load_card
from pipeline.engine.loading import fitting
from pipeline.engine.predictor import Predictor
from pipeline.engine.under_way import SpanUnderWay
from pipeline.errors import ConfigError, DeviceFailed, PipelineError
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


def test_memory_that_was_short_for_a_while_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.predictor.TRY_AGAIN", 3)
    predictor = Predictor(Mean(most=5), load_card(DIGITS / "model"), dtype="float32", batch_size=16)
    batch = predictor.prepare((np.zeros((16, 32, 32, 3), np.uint8),), [""] * 16, [(32, 32)] * 16)

    def step() -> int:
        assert len(predictor.step(batch).answers()["mean"]) == 16
        return predictor.at_once

    assert [step() for _ in range(4)] == [4, 4, 4, 4]  # more were tried with the last
    predictor.model.most = 16
    assert [step() for _ in range(6)] == [4, 4, 8, 8, 8, 16]
    assert predictor.used.at_once == 4


def test_a_device_that_fails_ends_the_run_and_the_same_command_continues(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceFailed, match="AcceleratorError of 16 images"):
        run_here(shards, tmp_path / "out", "mean", batch_size=16, error="AcceleratorError", most=0)
    assert run_here(shards, tmp_path / "out", "mean", batch_size=16) == 0
    assert run_here(shards, tmp_path / "calm", "mean", batch_size=16) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "calm/data")


class InNumPy(Mean):
    def predict(self, model: Any, batch: Batch) -> Columns:
        means = model(batch.pixels).numpy()
        means[3] = np.nan
        return {"mean": means}


def test_parts_of_a_batch_that_are_no_tensors_are_looked_through_as_a_whole_is() -> None:
    predictor = Predictor(InNumPy(most=8), load_card(DIGITS / "model"), dtype="float32", batch_size=16)
    step = predictor.step(predictor.prepare((np.zeros((16, 32, 32, 3), np.uint8),), [""] * 16, [(32, 32)] * 16))
    answered = predictor.encode(step.answers(), step.reason)
    assert predictor.at_once == 8
    assert [number for number, error in enumerate(answered.errors) if error] == [3, 11]


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
