"""A model on one device: batches of uint8 pixels in, column values out.

Determinism: a batch is always `batch_size` images of one span, image i of the span in slot i % batch_size, failed and
missing ones black. So an answer depends on its own pixels and slot, never on workers, retries or neighbours that fail.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from beit_core import ModelCard, PixelSpec, compile_model, pack
from pipeline.engine.device import (
    AGAIN,
    DTYPES,
    attention,
    device_failures,
    device_kind,
    device_name,
    each_tensor,
    first_line,
    is_fatal,
    is_short_of_memory,
    keep_freed_memory,
    keep_to_fixed_kernels,
    readable,
)
from pipeline.engine.transfer import OnDevice, Transfer
from pipeline.errors import ConfigError, DeviceFailed, PipelineError
from pipeline.output.receipts import DeviceUsed
from pipeline.task import AnyTask, Batch, Column, Columns

TRY_AGAIN = 200  # batches after which more images at once are tried, where there was too little memory for them

Values = np.ndarray | Sequence[object]


@dataclass(frozen=True)
class Answered:
    """Column values with an entry per image, and per image the reason why it has none (None where all is well)."""

    columns: Mapping[str, Values]
    errors: Sequence[str | None]


@dataclass(frozen=True)
class Asked:
    """One batch for the model: uint8 (B, H, W, 3) per view, and what a task may use of its images."""

    views: tuple[Tensor, ...]
    uris: Sequence[str]
    sizes: Sequence[tuple[int, int]]  # (height, width) of the upright original, (0, 0) for what is not to be answered
    prepared: Mapping[str, Tensor]


class Step:
    """A batch that the model has been asked about: `copied` waits until its pixels may be overwritten, `answers` until
    it is computed.

    `seconds` is what the device needed for it, once the answers are here.
    """

    def __init__(self, answers: Columns | OnDevice, reason: str | None, seconds: float) -> None:
        self.reason, self.seconds = reason, seconds
        self._answers = answers

    def copied(self) -> None:
        """Wait until the device has the pixels."""
        if isinstance(self._answers, OnDevice):
            with device_failures():
                self._answers.copied.synchronize()

    def answers(self) -> Columns:
        """The answers on the CPU, without bfloat16, which numpy does not know; to be asked for once."""
        answers, self._answers = self._answers, {}
        if isinstance(answers, OnDevice):
            columns, self.seconds = answers.fetch()
            return columns
        return {name: each_tensor(values, readable) for name, values in answers.items()}


class Predictor:
    """Runs one task's model; asked by one thread at a time."""

    def __init__(
        self,
        task: AnyTask,
        card: ModelCard,
        *,
        dtype: str,
        batch_size: int,
        compiled: bool = False,
        device: str = "auto",
    ) -> None:
        """Load the model. Raises ConfigError where the device has no room for it, and what the task raises."""
        self.task, self.card = task, card
        self.device = torch.device(device_kind(device))
        self.name = device_name(self.device.type)
        self.dtype = DTYPES[dtype]
        self.columns = task.columns(card).keys()
        self.specs: tuple[PixelSpec, ...] = task.pixel_specs(card)
        self.batch_size = batch_size
        self.at_once = self.fewest = batch_size  # fewer after the device ran out of memory
        self._since_short = 0  # batches
        keep_to_fixed_kernels(self.device.type, dtype)
        if self.device.type == "cpu":
            keep_freed_memory()
        try:
            self.model = task.load(card).eval().to(device=self.device, dtype=self.dtype)
            self.transfer = Transfer() if self.device.type == "cuda" else None
        except torch.OutOfMemoryError as error:
            raise ConfigError(f"--model {card.name}: the device has no room for it ({first_line(error)})") from error
        except torch.AcceleratorError as error:
            raise DeviceFailed(f"the device failed ({first_line(error)}): {AGAIN}") from error
        if compiled:
            compile_model(self.model)
        elif self.device.type == "cpu" and self.dtype == torch.bfloat16:
            pack(self.model)

    @property
    def used(self) -> DeviceUsed:
        """What receipts say of the device."""
        worker = f"{socket.gethostname()}:{os.getpid()}"
        return DeviceUsed(self.name, worker, self.fewest if self.fewest < self.batch_size else None)

    def warm_up(self) -> str | None:
        """Compute a batch of black images, for which kernels are loaded or compiled; the reason where that fails.

        Raises DeviceFailed.
        """
        sizes = [spec.size or (1, 1) for spec in self.specs]
        views = tuple(np.zeros((self.batch_size, *size, 3), np.uint8) for size in sizes)
        step = self.step(self.prepare(views, [""] * self.batch_size, [sizes[0]] * self.batch_size))
        step.answers()
        return step.reason

    def prepare(self, views: tuple[np.ndarray, ...], uris: Sequence[str], sizes: Sequence[tuple[int, int]]) -> Asked:
        """A batch as `step` takes it, in the memory of these views; by any thread, while the device works on others."""
        prepared = {name: torch.from_numpy(values) for name, values in self.task.prepare(self.card, uris).items()}
        return Asked(tuple(map(torch.from_numpy, views)), uris, sizes, prepared)

    def step(self, asked: Asked) -> Step:
        """Run the model on a batch; if it fails, the step holds the reason.

        Its answers have to be asked for: a batch that finds too little memory waits for those of the batches before it.
        Raises DeviceFailed for an error that leaves the device, and this process, unusable.
        """
        began = time.perf_counter()
        with device_failures():  # what it asks of the device at first
            kernels = attention(self.device.type)
        with torch.inference_mode(), kernels:
            if self.device.type == "cpu":
                torch.set_num_threads(1)  # one predictor per core; a fixed number keeps answers bit-identical
            if self.transfer is None:
                columns, reason = self._answer(asked)
                return Step(columns, reason, time.perf_counter() - began)
            batch = self.transfer.bring(asked.views, asked.prepared)
            batch.answers, reason = self._answer(replace(asked, views=batch.views, prepared=batch.prepared))
            with device_failures():
                batch.computed.record()
            return Step(batch, reason, time.perf_counter() - began)

    def _answer(self, asked: Asked) -> tuple[Columns, str | None]:
        """The answers for the whole batch, in pieces where the device has too little memory for it."""
        self._grow()
        while True:
            try:
                pieces = [self._ask(asked, start) for start in range(0, len(asked.uris), self.at_once)]
                return _joined(pieces), None
            except (RuntimeError, ValueError, MemoryError) as error:
                short = is_short_of_memory(error)
                if is_fatal(error) and not short:
                    raise DeviceFailed(f"the device failed ({first_line(error)}): {AGAIN}") from error
                if not short:
                    return {}, f"the model failed ({first_line(error)})"
                said = first_line(error)
            if self.transfer is not None and self.transfer.make_room():
                continue
            if self.at_once == 1:
                return {}, f"the device has too little memory for one image ({said})"
            self.at_once, self._since_short = -(-self.at_once // 2), 0
            self.fewest = min(self.fewest, self.at_once)

    def _grow(self) -> None:
        """Try twice as many images at once again, where what took the memory may be gone by now."""
        self._since_short += 1
        if self._since_short == TRY_AGAIN and self.at_once < self.batch_size:
            self.at_once, self._since_short = min(2 * self.at_once, self.batch_size), 0

    def _ask(self, asked: Asked, start: int) -> Columns:
        piece = slice(start, start + self.at_once)
        views = tuple(spec.normalize(view[piece]) for view, spec in zip(asked.views, self.specs, strict=True))
        prepared = {name: values[piece] for name, values in asked.prepared.items()}
        batch = Batch(asked.uris[piece], asked.sizes[piece], views, self.dtype, prepared)
        answers = self.task.predict(self.model, batch)
        if self.transfer is None:
            return answers
        # They leave the device dense. Made so here, where smaller batches are tried if there is no memory for it.
        return {name: each_tensor(values, Tensor.contiguous) for name, values in answers.items()}

    def encode(self, answers: Columns, reason: str | None) -> Answered:
        """Column values of a batch's answers; NaN and infinity become errors."""
        errors: list[str | None] = [reason] * self.batch_size
        if reason is not None:
            return Answered({}, errors)
        encoded = self.task.encode(self.card, {name: _to_values(values) for name, values in answers.items()})
        columns = {name: _to_values(values) for name, values in encoded.columns.items()}
        self._check_columns(columns)
        for index, error in enumerate(encoded.errors):
            errors[index] = error
        for name, values in columns.items():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                # Half precision overflows, damaged weights yield NaN.
                for bad in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)):
                    errors[bad] = errors[bad] or f"the model's {name} is not finite; try --dtype float32"
        return Answered(columns, errors)

    def _check_columns(self, columns: Mapping[str, Values]) -> None:
        """Raise PipelineError where they are not the task's, or have not one entry per image, which mixes images up."""
        if columns.keys() != self.columns:
            raise PipelineError(
                f"task {self.task.name} says that its columns are {', '.join(self.columns)}, and answers "
                f"{', '.join(columns)}: `predict` and `encode` have to name the columns as `columns` does"
            )
        for name, values in columns.items():
            count = values.shape[:1] if isinstance(values, np.ndarray) else (len(values),)
            if count != (self.batch_size,):
                raise PipelineError(
                    f"task {self.task.name} answers {count[0] if count else 'no'} entries as {name} of a batch of "
                    f"{self.batch_size} images: `predict` and `encode` have to give one entry per image"
                )


def _joined(pieces: Sequence[Columns]) -> Columns:
    """Answers of consecutive pieces of a batch as one."""
    return {name: _one_column([piece[name] for piece in pieces]) for name in pieces[0]}


def _one_column(pieces: Sequence[Column]) -> Column:
    if len(pieces) == 1:
        return pieces[0]
    if tensors := [piece for piece in pieces if isinstance(piece, Tensor)]:
        return torch.cat(tensors)
    if arrays := [piece for piece in pieces if isinstance(piece, np.ndarray)]:  # a list's NaN would not be looked for
        return np.concatenate(arrays)
    return [value for piece in pieces for value in piece]


def _to_values(values: Column) -> Values:
    """Without torch: an array for a tensor, for those in a list too."""
    if isinstance(values, np.ndarray):
        return values
    if isinstance(values, Tensor):
        array: np.ndarray = values.numpy()
        return array
    return [value.numpy() if isinstance(value, Tensor) else value for value in values]


def joined(batches: Mapping[int, Answered], count: int, batch_size: int) -> Answered:
    """The answers for the `count` images of a span from those of its batches, by the index of their first image.

    Batches about which the model was not asked get placeholder values, which are never read.
    """
    starts = range(0, count, batch_size)
    example = next((answered.columns for answered in batches.values() if answered.columns), {})
    columns: dict[str, Values] = {}
    for name, value in example.items():
        parts = [batches[start].columns.get(name) if start in batches else None for start in starts]
        columns[name] = _filled_up(parts, value)[:count]
    errors: list[str | None] = []
    for start in starts:
        errors += batches[start].errors if start in batches else [None] * batch_size
    return Answered(columns, errors[:count])


def _filled_up(parts: Sequence[Values | None], example: Values) -> Values:
    """One column of the parts; in the place of those that are None as many values as `example` has."""
    if isinstance(example, np.ndarray):
        return np.concatenate([np.zeros_like(example) if part is None else np.asarray(part) for part in parts])
    return [value for part in parts for value in ([None] * len(example) if part is None else part)]
