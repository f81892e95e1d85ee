"""The question asked of every image: the only interface a new job implements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.command import job

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from beit_core import ModelCard, PixelSpec

Column: TypeAlias = "Tensor | np.ndarray | Sequence[object]"  # with an entry per image
Columns = Mapping[str, Column]
Model = TypeVar("Model", bound="nn.Module")

JOBS = {"classifier": "label", "segmenter": "segment", "masked": "tokens", "dvae": "tokens"}


def other_job(card: ModelCard) -> str:
    """The job that fits this checkpoint, as a user types it."""
    return job(JOBS.get(card.head, "embed"))


@dataclass(frozen=True)
class Batch:
    """One step of the model. Every field has one entry per image; padding is black images and empty strings."""

    uris: Sequence[str]
    sizes: Sequence[tuple[int, int]]  # (height, width) of the upright original, (0, 0) for padding
    views: tuple[Tensor, ...]  # one per `Task.pixel_specs`: (B, 3, H, W) float32, normalised, on the model's device
    dtype: torch.dtype  # what the model computes in
    prepared: Mapping[str, Tensor] = field(default_factory=dict)  # what `Task.prepare` made, on the model's device

    @property
    def pixels(self) -> Tensor:
        """The first view in the model's own dtype: (B, 3, H, W)."""
        return self.views[0].to(self.dtype)


@dataclass(frozen=True)
class Encoded:
    """Column values of a batch, and per image the reason why it has none; `errors` is empty where all is well."""

    columns: Columns
    errors: Sequence[str | None] = ()


@dataclass(frozen=True)
class Task(Generic[Model]):
    """A frozen dataclass whose fields are the task's flags, and three verbs.

    `columns` is called on the driver with the card alone, `load` once per predictor, `predict` for every batch. What
    `predict` returns has one entry per image: tensors on any device, or sequences of plain values, per column.
    """

    name: ClassVar[str]

    def check(self, card: ModelCard) -> None:
        """Raise ConfigError, naming a job that fits, if this checkpoint cannot do the task."""

    def settings(self, card: ModelCard) -> dict[str, object]:
        """What the output is bound to: the flags, with defaults that the card decides filled in."""
        return dict(vars(self))

    def pixel_specs(self, card: ModelCard) -> tuple[PixelSpec, ...]:
        """How every image is resized and normalised, once per input the model takes; most models take one."""
        return (card.pixels,)

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:
        """The task's columns and their types, in order."""
        raise NotImplementedError

    def load(self, card: ModelCard) -> Model:
        """The model, on the CPU in float32; the predictor moves it."""
        raise NotImplementedError

    def prepare(self, card: ModelCard, uris: Sequence[str]) -> Mapping[str, np.ndarray]:
        """What `predict` needs of these images beside their pixels; made while the device works on other batches."""
        return {}

    def predict(self, model: Model, batch: Batch) -> Columns:
        """The answers for one batch, still on the device."""
        raise NotImplementedError

    def encode(self, card: ModelCard, columns: Columns) -> Encoded:
        """Device answers, as NumPy's arrays by now, as column values; runs in parallel with the next batch.

        They are those that `columns` names, no more and no fewer; `predict` may answer whatever this takes.
        """
        return Encoded(columns)


AnyTask = Task[Any]  # for whoever runs a task without knowing its model
