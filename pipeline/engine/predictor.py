"""A model on one device: uint8 pixels of a span in, column values out. The only file that knows devices.

Determinism: a batch is always `batch_size` images of one span, image i of the span in slot i % batch_size, failed and
missing ones black. So an answer depends on its own pixels and slot, never on workers, retries or neighbours that fail.
"""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from beit_core import ModelCard
from pipeline.engine.reader import Loaded
from pipeline.errors import PipelineError
from pipeline.task import Batch, Columns, Task

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ENCODERS = 4  # threads that turn answers into column values beside a GPU
CPU_BATCH, GPU_BATCH = 32, 256  # images of 224 x 224 per step


def device_kind() -> str:
    """`cuda` where this process may use a GPU that works, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def auto_dtype() -> str:
    """What `--dtype auto` means on this process's device."""
    return "bfloat16" if device_kind() == "cuda" and torch.cuda.is_bf16_supported() else "float32"


def auto_batch_size(size: tuple[int, int] | None, span_size: int) -> int:
    """Images per step: a power of two for about equal memory at any image size, and no more than a span."""
    if size is None:
        return 1
    base = GPU_BATCH if device_kind() == "cuda" else CPU_BATCH
    fitting = max(1, int(base * 224 * 224 / (size[0] * size[1])))
    return min(1 << (min(fitting, 2 * base).bit_length() - 1), span_size)


def on_device(thing: Any, dtype: str) -> Any:
    """A module or tensor where this process predicts, in that dtype."""
    return thing.to(device=torch.device(device_kind()), dtype=DTYPES[dtype])


@dataclasses.dataclass
class Predicted:
    """Column values of a span, an entry per image, and what went wrong: a reason per image, None where all is well."""

    columns: dict[str, Any]
    errors: list[str | None]


class Predictor:
    """Runs one task's model; build it once per process."""

    def __init__(
        self, task: Task, card: ModelCard, *, dtype: str, batch_size: int, span_size: int, compiled: bool = False
    ) -> None:
        self.task, self.card = task, card
        self.device = torch.device(device_kind())
        self.dtype = DTYPES[dtype]
        self.specs = task.views(card)
        if self.device.type == "cpu":
            torch.set_num_threads(1)  # one predictor per core; and a fixed count keeps answers bit-equal
        size = self.specs[0].size
        self.batch_size = batch_size or auto_batch_size(size, span_size)
        if size is None:
            self.batch_size = 1  # every image has a shape of its own
        self.model: Any = task.load(card).eval().to(device=self.device, dtype=self.dtype)
        if compiled:
            self.model = torch.compile(self.model, dynamic=False)

    def __call__(self, loaded: Loaded) -> Predicted:
        """Answer for every image of the span in `todo`; the others hold values that nobody reads."""
        count = len(loaded.todo)
        errors: list[str | None] = [None] * count
        pieces: list[tuple[int, Future[Columns]]] = []
        with ThreadPoolExecutor(ENCODERS if self.device.type == "cuda" else 1) as pool, torch.inference_mode():
            for start in range(0, count, self.batch_size):
                wanted = loaded.todo[start : start + self.batch_size].any()
                if wanted and (answers := self._answers(loaded, start, errors)):
                    pieces.append((start, pool.submit(self._encode, answers)))
        columns = _joined({start: piece.result() for start, piece in pieces}, count, self.batch_size)
        _note_numbers(columns, loaded.todo, errors)
        return Predicted(columns, errors)

    def _encode(self, answers: Columns) -> Columns:
        on_cpu = {name: _to_cpu(values) for name, values in answers.items()}
        return {name: _to_numpy(values) for name, values in self.task.encode(self.card, on_cpu).items()}

    def _answers(self, loaded: Loaded, start: int, errors: list[str | None]) -> Columns:
        """One batch; where the model fails on it, its images get the reason and the next batch goes on."""
        try:
            return self.task.predict(self.model, self._batch(loaded, start))
        except torch.OutOfMemoryError as error:
            smaller = max(1, self.batch_size // 2)
            raise PipelineError(
                f"the GPU has too little memory for batches of {self.batch_size} images: give --batch-size {smaller}"
            ) from error
        except (RuntimeError, ValueError) as error:
            if self.device.type == "cuda" and isinstance(error, RuntimeError):
                raise  # a CUDA error leaves the process unusable
            reason = f"the model failed ({str(error).splitlines()[0][:160]})"
        for index in range(start, min(start + self.batch_size, len(errors))):
            errors[index] = reason
        return {}

    def _batch(self, loaded: Loaded, start: int) -> Batch:
        stop = min(start + self.batch_size, len(loaded.todo))
        padding = self.batch_size - (stop - start)
        rows = loaded.rows.slice(start, stop - start)
        heights, widths = rows["height"].to_pylist(), rows["width"].to_pylist()
        todo = loaded.todo[start:stop].tolist()
        sizes = [(h, w) if wanted else (0, 0) for h, w, wanted in zip(heights, widths, todo, strict=True)]
        views = [
            self._to_device(view[start:stop], padding, spec.normalize)
            for view, spec in zip(loaded.views, self.specs, strict=True)
        ]
        uris = rows["uri"].to_pylist() + [""] * padding
        return Batch(uris, sizes + [(0, 0)] * padding, tuple(views), self.dtype)

    def _to_device(self, pictures: Any, padding: int, normalize: Any) -> Tensor:
        """uint8 pictures of one shape -> (B, 3, H, W) float32, normalised on the device."""
        array = np.stack(pictures) if isinstance(pictures, list) else pictures
        if padding:
            array = np.concatenate([array, np.zeros((padding, *array.shape[1:]), np.uint8)])
        pixels = torch.from_numpy(array if array.flags.writeable else array.copy())
        if self.device.type == "cuda":
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        result: Tensor = normalize(pixels)
        return result


def _to_cpu(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.float().cpu() if values.dtype == torch.bfloat16 else values.cpu()
    return [value.cpu() if isinstance(value, Tensor) else value for value in values]


def _to_numpy(values: Any) -> Any:
    return values.numpy() if isinstance(values, Tensor) else values


def _joined(pieces: dict[int, Columns], count: int, batch_size: int) -> dict[str, Any]:
    """Column values of all batches as one array or list per column; batches without answers are filled up."""
    example: dict[str, Any] = next((dict(piece) for piece in pieces.values() if piece), {})
    columns: dict[str, Any] = {}
    for name, value in example.items():
        empty = np.zeros_like(value) if isinstance(value, np.ndarray) else [None] * batch_size
        parts: list[Any] = [pieces.get(start, {}).get(name, empty) for start in range(0, count, batch_size)]
        whole: Any = np.concatenate(parts) if isinstance(value, np.ndarray) else [row for part in parts for row in part]
        columns[name] = whole[:count]
    return columns


def _note_numbers(columns: dict[str, Any], todo: np.ndarray, errors: list[str | None]) -> None:
    """An answer that is not a number is no answer: half precision overflows, damaged weights yield NaN."""
    for name, values in columns.items():
        if isinstance(values, np.ndarray) and values.dtype.kind == "f":
            bad = ~np.isfinite(values.reshape(len(values), -1)).all(axis=1) & todo
            for index in np.flatnonzero(bad):
                errors[index] = f"the model's {name} is not finite; try --dtype float32"
