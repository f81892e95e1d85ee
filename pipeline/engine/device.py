"""What a device is and can do: its kind, name, arithmetic, memory, and how it fails."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from pipeline.errors import ConfigError, DeviceFailed
from pipeline.log import warn
from pipeline.task import Column

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Images of 224 x 224 per step. On a CPU half as many in float32: tensors would be larger than a HEAP.
CPU_BATCH, GPU_BATCH = 32, 256
NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16")  # what a CPU must be able to do; others emulate it, slower than float32

# A GPU's attention kernels in the order in which they are tried: fixed, so that no version of torch and no kind of GPU
# prefers others. Flash attention takes no bias; cuDNN's gives wrong answers for a float32 bias. On CPUs nothing is to
# be chosen: there is flash attention, and what it refuses is left to plain products.
ATTENTION = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # from malloc.h
HEAP = 1 << 26  # bytes of the largest heap that glibc has for threads other than the main one
# Of kernels being loaded, cuBLAS, cuDNN, which tries its algorithms one after the other, and CPUs.
OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "DefaultCPUAllocator: can't allocate memory",
)
AGAIN = "what is finished is safe, the same command continues"
HANG_S = 1800.0  # a device without an answer for so long has hung (large images on a CPU take minutes)

Placed = TypeVar("Placed", nn.Module, Tensor)
T = TypeVar("T")


def device_kind(wanted: str = "auto") -> str:
    """`cuda` where this process may use a GPU that works and `--device` lets it, else `cpu`."""
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def woken(wanted: str = "auto") -> str:
    """`device_kind`, once the device has done something.

    Raises DeviceFailed for a GPU that cannot be used, as one that others have for themselves, or that has no kernels.
    """

    def wake() -> str:
        kind = device_kind(wanted)
        torch.zeros(1, device=kind)
        return kind

    with device_failures():
        return in_time(wake)


def gpus() -> int:
    """GPUs that this process may use."""
    return torch.cuda.device_count()


def device_name(kind: str) -> str:
    """The device's name, for reports."""
    return str(torch.cuda.get_device_name()) if kind == "cuda" else "cpu"


def cpu_class() -> str:
    """What decides how this CPU rounds: its bfloat16 instructions, or else the vectors that torch uses."""
    native = _native_bfloat16()
    return native[0] if native else str(torch.backends.cpu.get_cpu_capability())


def _native_bfloat16() -> list[str]:
    can = torch.cpu.get_capabilities()
    return [name for name in NATIVE_BFLOAT16 if can.get(name)]


def resolve_dtype(wanted: str, kind: str) -> str:
    """What `--dtype` means on this process's device; raises ConfigError for arithmetic that it only emulates."""
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        if wanted == "bfloat16" and not native:
            raise ConfigError(f"--dtype bfloat16: {device_name(kind)} only emulates it; give float16 or float32")
    else:
        native = bool(_native_bfloat16())
        if wanted == "bfloat16" and not native:
            raise ConfigError("--dtype bfloat16: this CPU only emulates it, slower than float32; give float32")
        if wanted == "float16":
            raise ConfigError("--dtype float16: CPUs only emulate it, a hundred times slower; give float32 or bfloat16")
    return wanted if wanted != "auto" else "bfloat16" if native else "float32"


def auto_batch_size(size: tuple[int, int] | None, kind: str, dtype: str) -> int:
    """Images per step: a power of two for about equal memory at any image size; 1 where every image has its own."""
    if size is None:
        return 1
    base = GPU_BATCH if kind == "cuda" else CPU_BATCH // (2 if dtype == "float32" else 1)
    fitting = max(1, int(base * 224 * 224 / (size[0] * size[1])))
    return 1 << (min(fitting, 2 * base).bit_length() - 1)


def can_compile(kind: str) -> bool:
    """Whether `torch.compile` finds what it needs: a C++ compiler for CPUs, Triton and a C compiler for GPUs."""
    if kind == "cuda":
        return importlib.util.find_spec("triton") is not None and any(map(shutil.which, ("gcc", "clang", "cc")))
    return any(map(shutil.which, ("g++", "clang++", "c++")))


def keep_freed_memory() -> None:
    """Keep in this process what large tensors leave; C libraries other than glibc are left as they are.

    glibc returns their pages to the system and has those of every new tensor zeroed again: an eighth of a base model's
    time on a CPU. Of a thread's heaps it returns the last one whole whenever it is empty, whatever the threshold,
    unless more than two of them are to be kept as padding. A tensor larger than a heap is mapped anew every time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        mallopt(M_TOP_PAD, 2 * HEAP)


def when_done() -> float:
    """The time, in seconds, when the GPU has done all that it was asked for."""
    torch.cuda.synchronize()
    return time.perf_counter()


def on_device(thing: Placed, dtype: str) -> Placed:
    """A module or tensor where this process predicts, in that dtype."""
    return thing.to(device=torch.device(device_kind()), dtype=DTYPES[dtype])


def lock_pages(memory: np.ndarray, kind: str) -> bool:
    """Lock the memory's pages: from pageable memory every copy to the device waits for another copy on the CPU.

    Says whether they are locked; on a CPU there is no need.
    """
    code = 0
    if kind == "cuda":
        code = int(torch.cuda.cudart().cudaHostRegister(memory.ctypes.data, memory.nbytes, 0))
        if code:
            warn(f"{memory.nbytes >> 20} MiB cannot be locked (CUDA error {code}): copies to the GPU will be slower")
            with suppress(RuntimeError):
                torch.zeros(1, device="cuda")  # the next call of this thread raises that error once more
    return kind == "cuda" and not code


def unlock_pages(memory: np.ndarray) -> None:
    """Undo `lock_pages`: what is mapped at these addresses later is not locked."""
    torch.cuda.cudart().cudaHostUnregister(memory.ctypes.data)


def keep_to_share(kind: str, gpus: float) -> None:
    """Let torch give this process no more of the GPU's memory than its share, where several have parts of one."""
    if kind == "cuda" and gpus < 1:
        torch.cuda.set_per_process_memory_fraction(gpus)


def free_memory(kind: str) -> None:
    """Give memory that no tensor uses any more back to the device."""
    if kind == "cuda":
        torch.cuda.empty_cache()


def keep_to_fixed_kernels(kind: str, dtype: str) -> None:
    """In this process a GPU computes in the precision that was asked for, and the same on every run."""
    if kind == "cuda":
        torch.backends.cudnn.deterministic = True
        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
        if dtype == "float32":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def attention(kind: str) -> AbstractContextManager[None]:
    """Within the block attention is computed as ATTENTION says. Torch has one choice for all threads of a process."""
    if kind != "cuda":
        return nullcontext()
    _first_attention()
    return sdpa_kernel(ATTENTION, set_priority=True)


@functools.cache
def _first_attention() -> None:
    """At its first call torch sets an order of its own, which would otherwise be lost with the end of the block."""
    nothing = torch.zeros(1, 1, 8, 8, device="cuda", dtype=torch.float16)
    scaled_dot_product_attention(nothing, nothing, nothing)


@contextmanager
def device_failures() -> Iterator[None]:
    """Raise errors of the device, which come late where something waits for it, as DeviceFailed."""
    try:
        yield
    except RuntimeError as error:
        raise DeviceFailed(f"the device failed ({first_line(error)}): {AGAIN}") from error


def in_time(work: Callable[[], T]) -> T:
    """What `work` returns or raises, which asks the device for something. Raises DeviceFailed after HANG_S.

    A call that hangs in a driver cannot be ended: its thread stays until the process ends.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # handed over to the thread that waits
            done.set_exception(error)

    threading.Thread(target=run, name="device", daemon=True).start()
    if not wait([done], HANG_S).done:
        raise has_hung()
    return done.result()


def has_hung() -> DeviceFailed:
    """The error of a device that is no longer waited for."""
    return DeviceFailed(f"the device has not answered for {HANG_S:.0f} s: {AGAIN}")


def is_short_of_memory(error: Exception) -> bool:
    """Whether the device has too little memory, which libraries say in words of their own."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(words in str(error) for words in OUT_OF_MEMORY)


def is_fatal(error: Exception) -> bool:
    """Whether the error is the device's and not the model's: every later call would fail as well."""
    return isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]


def each_tensor(values: Column, change: Callable[[Tensor], Tensor]) -> Column:
    """A column with every tensor of it changed; whatever else it holds stays."""
    if isinstance(values, Tensor):
        return change(values)
    if isinstance(values, np.ndarray):
        return values
    return [change(value) if isinstance(value, Tensor) else value for value in values]


def readable(values: Tensor) -> Tensor:
    """Without bfloat16, which numpy does not know."""
    return values.float() if values.dtype == torch.bfloat16 else values
