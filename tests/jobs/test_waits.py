"""What the four tasks do on a device: nothing is left on the CPU, and the CPU waits for no answer on the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from embed import Embed
from label import Label
from segment import Segment
from tokens import Tokens
from torch import Tensor
from torch.overrides import TorchFunctionMode

from beit_core import load_card
from pipeline.task import AnyTask, Batch
from tests.gpu.models import save_seeded
from tests.models import save_dvae

IMAGES = 3


class Waits(TorchFunctionMode):
    """Counts what waits for the device, and answers yes to all that it asks."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not Tensor.tolist:
            return func(*args, **(kwargs or {}))
        self.count += 1
        return [True] * args[0].numel()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small model of every head, by its head."""
    folder = tmp_path_factory.mktemp("models")
    heads = ("encoder", "classifier", "masked", "segmenter")
    save_dvae(folder / "dvae", side=32)
    return {"dvae": folder / "dvae"} | {head: save_seeded(folder / head, head, small=True) for head in heads}


def waits(task: AnyTask, model: Path) -> int:
    """How often a batch waits on a device without memory: there torch refuses to mix devices, and knows no values."""
    card = load_card(model)
    module = task.load(card).eval().to("meta")
    specs = task.pixel_specs(card)
    uris = [f"{number}.jpg" for number in range(IMAGES)]
    prepared = {name: torch.from_numpy(values).to("meta") for name, values in task.prepare(card, uris).items()}
    with torch.inference_mode():
        pixels = [torch.empty(IMAGES, *(spec.size or (40, 60)), 3, dtype=torch.uint8, device="meta") for spec in specs]
        views = tuple(spec.normalize(view) for spec, view in zip(specs, pixels, strict=True))
        with Waits() as counted:
            answers = task.predict(module, Batch(uris, [(40, 60)] * IMAGES, views, torch.float32, prepared))
    assert answers.keys() == task.columns(card).keys() - {"labels", "classes"}  # which `encode` adds
    values = [one for column in answers.values() for one in ([column] if isinstance(column, Tensor) else column)]
    assert {one.device.type for one in values if isinstance(one, Tensor)} == {"meta"}
    return counted.count


@pytest.mark.parametrize(
    ("head", "task"),
    [
        ("encoder", Embed(unit_length=True)),
        ("encoder", Embed(pool="cls+mean", layer=2, embedding_type="float16")),
        ("classifier", Label(with_embedding=True)),
        ("masked", Embed()),
        ("segmenter", Embed()),
        ("dvae", Tokens()),
    ],
    ids=str,
)
def test_no_task_waits_for_the_device(models: dict[str, Path], head: str, task: AnyTask) -> None:
    assert waits(task, models[head]) == 0


def test_predicting_masked_tokens_does_not_wait(models: dict[str, Path]) -> None:
    assert waits(Tokens(tokenizer=str(models["dvae"])), models["masked"]) == 0


@pytest.mark.parametrize("task", [Segment(), Segment(semantics="original")], ids=["hf", "original"])
def test_a_mask_waits_once_and_not_for_each_class(models: dict[str, Path], task: AnyTask) -> None:
    assert waits(task, models["segmenter"]) == IMAGES
