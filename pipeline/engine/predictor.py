"""A model on one device: batches of uint8 pixels in, column values out. The only file that knows devices.

Determinism: a batch is always `batch_size` images of one span, image i of the span in slot i % batch_size, failed and
missing ones black. So an answer depends on its own pixels and slot, never on workers, retries or neighbours that fail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from beit_core import ModelCard, PixelSpec
from pipeline.errors import ConfigError, DeviceFailed
from pipeline.task import AnyTask, Batch, Column, Columns

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CPU_BATCH, GPU_BATCH = 32, 256  # images of 224 x 224 per step
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # what a CPU must be able to do; others emulate it, slower than float32

AGAIN = "what is finished is safe, the same command continues"

Values = np.ndarray | Sequence[object]
Placed = TypeVar("Placed", nn.Module, Tensor)


def device_kind(wanted: str = "auto") -> str:
    """`cuda` where this process may use a GPU that works and `--device` lets it, else `cpu`."""
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def device_name(kind: str) -> str:
    """What people call the device."""
    return str(torch.cuda.get_device_name()) if kind == "cuda" else "cpu"


def resolve_dtype(wanted: str, kind: str) -> str:
    """What `--dtype` means on this process's device; raises ConfigError for arithmetic that it only emulates."""
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bfloat16" and not native:
            raise ConfigError(f"--dtype bfloat16: {device_name(kind)} only emulates it; give float16 or float32")
    else:
        can = torch.cpu.get_capabilities()
        native = any(can.get(name) for name in NATIVE_BFLOAT16)
        if wanted == "bfloat16" and not native:
            raise ConfigError("--dtype bfloat16: this CPU only emulates it, slower than float32; give float32")
        if wanted == "float16":
            raise ConfigError("--dtype float16: CPUs only emulate it, a hundred times slower; give float32 or bfloat16")
    return wanted if wanted != "auto" else "bfloat16" if native else "float32"


def auto_batch_size(size: tuple[int, int] | None, kind: str) -> int:
    """Images per step: a power of two for about equal memory at any image size; 1 where every image has its own."""
    if size is None:
        return 1
    base = GPU_BATCH if kind == "cuda" else CPU_BATCH
    fitting = max(1, int(base * 224 * 224 / (size[0] * size[1])))
    return 1 << (min(fitting, 2 * base).bit_length() - 1)


def on_device(thing: Placed, dtype: str) -> Placed:
    """A module or tensor where this process predicts, in that dtype."""
    return thing.to(device=torch.device(device_kind()), dtype=DTYPES[dtype])


@dataclass(frozen=True)
class Answered:
    """Column values with an entry per image, and per image the reason why it has none (None where all is well)."""

    columns: Mapping[str, Values]
    errors: Sequence[str | None]


@dataclass(frozen=True)
class Asked:
    """One batch for the model: uint8 (B, H, W, 3) per view, and what a task may want to know of its images."""

    views: tuple[np.ndarray, ...]
    uris: Sequence[str]
    sizes: Sequence[tuple[int, int]]  # (height, width) of the upright original, (0, 0) for what is not to be answered


class Step:
    """A batch on the device: `copied` waits until its pixels may be overwritten, `answers` until it is computed."""

    def __init__(
        self,
        columns: Columns,
        reason: str | None,
        copied: torch.cuda.Event | None,
        computed: torch.cuda.Event | None,
        stream: torch.cuda.Stream | None,
    ) -> None:
        self.columns, self.reason = columns, reason
        self._copied, self._computed, self._stream = copied, computed, stream

    def copied(self) -> None:
        """Wait until the device has the pixels."""
        if self._copied is not None:
            with _device_failures():
                self._copied.synchronize()

    def answers(self) -> Columns:
        """The answers on the CPU, without bfloat16, which numpy does not know."""
        if self._computed is None:
            return {name: _to_cpu(values) for name, values in self.columns.items()}
        # On the model's own stream they would wait for the next batch.
        with _device_failures(), torch.cuda.stream(self._stream):
            self._computed.synchronize()
            return {name: _to_cpu(values) for name, values in self.columns.items()}


class Predictor:
    """Runs one task's model; built once per process, and asked by one thread at a time."""

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
        self.task, self.card = task, card
        self.device = torch.device(device_kind(device))
        self.name = device_name(self.device.type)
        self.dtype = DTYPES[dtype]
        self.specs: tuple[PixelSpec, ...] = task.views(card)
        self.batch_size = batch_size
        self.at_once = batch_size  # fewer after the device ran out of memory
        if self.device.type == "cuda" and dtype == "float32":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.model = task.load(card).eval().to(device=self.device, dtype=self.dtype)
        if compiled:
            self.model = torch.compile(self.model, dynamic=False)
        self.copying = torch.cuda.Stream() if self.device.type == "cuda" else None
        self.returning = torch.cuda.Stream() if self.device.type == "cuda" else None

    def step(self, asked: Asked) -> Step:
        """Have the model answer a batch; where it fails on it, the step has the reason.

        Raises DeviceFailed for an error that leaves the device, and this process, unusable.
        """
        with torch.inference_mode():
            if self.device.type == "cpu":
                torch.set_num_threads(1)  # one predictor per core; and a fixed count keeps answers bit-equal
            pixels, copied = self._copy(asked.views)
            columns, reason = self._answer(asked, pixels)
            computed = torch.cuda.Event() if self.copying is not None else None
            if computed is not None:
                computed.record()
            return Step(columns, reason, copied, computed, self.returning)

    def _copy(self, views: tuple[np.ndarray, ...]) -> tuple[list[Tensor], torch.cuda.Event | None]:
        """The views as uint8 tensors where the model is, without a copy on the CPU."""
        tensors = [torch.from_numpy(view) for view in views]
        if self.copying is None:
            return tensors, None
        copied = torch.cuda.Event()
        with torch.cuda.stream(self.copying):
            there = [tensor.to(self.device, non_blocking=True) for tensor in tensors]
            copied.record()
        torch.cuda.current_stream().wait_event(copied)
        for tensor in there:
            tensor.record_stream(torch.cuda.current_stream())
        return there, copied

    def _answer(self, asked: Asked, pixels: list[Tensor]) -> tuple[Columns, str | None]:
        """The answers for the whole batch, in pieces where the device has too little memory for it."""
        while True:
            try:
                pieces = [self._ask(asked, pixels, start) for start in range(0, len(asked.uris), self.at_once)]
                return _joined(pieces), None
            except torch.OutOfMemoryError as error:
                if self.at_once == 1:
                    return {}, f"the device has too little memory for one image ({_first_line(error)})"
                self.at_once = -(-self.at_once // 2)
            except (RuntimeError, ValueError) as error:
                if _is_fatal(error):
                    raise DeviceFailed(f"the device failed ({_first_line(error)}): {AGAIN}") from error
                return {}, f"the model failed ({_first_line(error)})"

    def _ask(self, asked: Asked, pixels: list[Tensor], start: int) -> Columns:
        piece = slice(start, start + self.at_once)
        views = tuple(spec.normalize(view[piece]) for view, spec in zip(pixels, self.specs, strict=True))
        return self.task.predict(self.model, Batch(asked.uris[piece], asked.sizes[piece], views, self.dtype))

    def encode(self, answers: Columns, reason: str | None) -> Answered:
        """Column values of a batch's answers; an answer that is not a number is none."""
        errors: list[str | None] = [reason] * self.batch_size
        if reason is not None:
            return Answered({}, errors)
        encoded = self.task.encode(self.card, answers)
        columns = {name: _to_values(values) for name, values in encoded.columns.items()}
        for index, error in enumerate(encoded.errors):
            errors[index] = error
        for name, values in columns.items():
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                # Half precision overflows, damaged weights yield NaN.
                for bad in np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)):
                    errors[bad] = f"the model's {name} is not finite; try --dtype float32"
        return Answered(columns, errors)


def lock_pages(memory: np.ndarray, kind: str) -> None:
    """Let the device read this memory by itself; without, every copy to it waits for one on the CPU."""
    if kind == "cuda":
        code = int(torch.cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
        if code:
            raise DeviceFailed(f"{memory.nbytes >> 20} MiB of memory cannot be locked for the device (error {code})")


@contextmanager
def _device_failures() -> Iterator[None]:
    """Errors of a device come late, to whoever waits for it: as DeviceFailed, which a new process may mend."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceFailed(f"the device failed ({_first_line(error)}): {AGAIN}") from error


def _is_fatal(error: Exception) -> bool:
    """Whether the error is the device's and not the model's: every later call would fail as well."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def _joined(pieces: Sequence[Columns]) -> Columns:
    """Answers of consecutive pieces of a batch as one."""
    return {name: _one_column([piece[name] for piece in pieces]) for name in pieces[0]}


def _one_column(pieces: Sequence[Column]) -> Column:
    if len(pieces) == 1:
        return pieces[0]
    tensors = [piece for piece in pieces if isinstance(piece, Tensor)]
    return torch.cat(tensors) if tensors else [value for piece in pieces for value in piece]


def _to_cpu(values: Column) -> Column:
    if isinstance(values, Tensor):
        return values.float().cpu() if values.dtype == torch.bfloat16 else values.cpu()
    return [value.cpu() if isinstance(value, Tensor) else value for value in values]


def _to_values(values: Column) -> Values:
    if isinstance(values, Tensor):
        array: np.ndarray = values.numpy()
        return array
    return values


def joined(batches: Mapping[int, Answered], count: int, batch_size: int) -> Answered:
    """The answers for the `count` images of a span from those of its batches, by the index of their first image.

    Batches that nobody asked about are filled up with values that nobody reads.
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
