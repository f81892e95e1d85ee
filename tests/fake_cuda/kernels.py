"""Every CUDA kernel of torch, computed by the CPU's on the device's memory when its stream's turn comes.

`build.py` has torch import this at its end, as `fake_cuda_kernels`; it stands alone, because torch's copy is no part of
this project. A kernel makes its results at once, without values, as the meta device says that they will look. It knows
its tensors by addresses: like a GPU's it does not keep them alive.
"""

import atexit
import ctypes
import itertools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Made = Callable[..., Any]

runtime = ctypes.CDLL("libcudart.so.13")
CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_long)
runtime.fake_enqueue.argtypes = [ctypes.c_void_p, CALLBACK, ctypes.c_long]
runtime.fake_synchronize.argtypes = [ctypes.c_void_p]
atexit.register(runtime.fake_finish)

waiting: dict[int, Callable[[], None]] = {}
numbers = itertools.count()

# Torch's own do what is asked of them by views and copies alone, or ask what kind of device this is.
NATIVE = {
    "_cudnn_init_dropout_state", "_efficientzerotensor", "_fused_sdp_choice", "_local_scalar_dense", "_pin_memory",
    "_reshape_alias", "as_strided", "copy_", "empty.memory_format", "empty_strided", "is_pinned", "is_set_to",
    "record_stream", "resize_", "set_", "set_.source_Storage", "set_.source_Storage_storage_offset",
    "set_.source_Tensor", "split_with_sizes", "squeeze", "unfold", "view", "view_as_complex", "view_as_real",
}  # fmt: skip


@CALLBACK
def run(number: int) -> None:
    """Called by the runtime's thread."""
    try:
        with torch.inference_mode():
            waiting.pop(number)()
    except BaseException:  # there is nobody to raise it to
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(97)


def stream() -> int:
    handle: int = torch.cuda.current_stream().cuda_stream
    return handle


def enqueue(job: Callable[[], None]) -> None:
    number = next(numbers)
    waiting[number] = job
    runtime.fake_enqueue(stream(), run, number)


class Memory:
    """Where a tensor of the device lies, and how."""

    def __init__(self, tensor: Tensor) -> None:
        self.address, self.dtype = tensor.data_ptr(), tensor.dtype
        self.shape, self.strides = tuple(tensor.shape), tuple(tensor.stride())

    def on_cpu(self) -> Tensor:
        """The same memory as a tensor of the CPU's."""
        if 0 in self.shape:
            return torch.empty(self.shape, dtype=self.dtype)
        count = sum((side - 1) * step for side, step in zip(self.shape, self.strides, strict=True)) + 1
        raw = (ctypes.c_char * (count * self.dtype.itemsize)).from_address(self.address)
        return torch.frombuffer(raw, dtype=self.dtype).as_strided(self.shape, self.strides)


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """An argument with everything in it changed."""
    if isinstance(value, list | tuple):
        return type(value)(each(one, change) for one in value)
    return change(value)


def remembered(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return Memory(value) if value.is_cuda else value.clone()


def on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("cpu")
    return value.on_cpu() if isinstance(value, Memory) else value


def on_meta(value: Any) -> Any:
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def fresh(value: Any) -> Any:
    """Memory on the device for a result."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="cuda")


def fill(places: Any, results: Any) -> None:
    if isinstance(places, Memory):
        places.on_cpu().copy_(results)
    elif isinstance(places, list | tuple):
        for place, result in zip(places, results, strict=True):
            fill(place, result)


def kernel(name: str, op: Any) -> Made:
    """What takes the place of a CUDA kernel."""
    arguments = op._schema.arguments
    written = {at for at, one in enumerate(arguments) if one.alias_info is not None and one.alias_info.is_write}
    is_tensor = [one.type.isSubtypeOf(torch._C.TensorType.get()) for one in arguments]
    names = [one.name for one in arguments]
    packet = getattr(torch.ops.aten, name.partition(".")[0])
    cpu_op, meta_op = CPU_OPS.get(name, (op, op))

    def results(args: Sequence[Any], more: dict[str, Any], ours: Made, shape: Made) -> Any:
        try:
            with torch.inference_mode():
                shapes = shape(*each(args, on_meta), **each_value(more, on_meta))
        except (NotImplementedError, RuntimeError):  # shapes that depend on values; what is wrong is raised below
            runtime.fake_synchronize(stream())
            found = ours(*each(each(args, remembered), on_cpu), **{key: on_cpu(one) for key, one in more.items()})
            return each(found, lambda one: one.to("cuda") if isinstance(one, Tensor) else one)
        made = each(shapes, fresh)
        places, args, more = each(made, remembered), each(args, remembered), each_value(more, remembered)
        enqueue(lambda: fill(places, ours(*each(args, on_cpu), **each_value(more, on_cpu))))
        return made

    def write(args: Sequence[Any], more: dict[str, Any], ours: Made, shape: Made) -> Any:
        targets = [args[at] if at < len(args) else more[names[at]] for at in sorted(written)]
        if any(arguments[at].is_out for at in written):
            empty = {names[at]: torch.empty(0, dtype=target.dtype, device="meta")
                     for at, target in zip(sorted(written), targets, strict=True)}  # fmt: skip
            given = [one for at, one in enumerate(args) if at not in written]
            with torch.inference_mode():
                shapes = shape(*each(given, on_meta), **(each_value(more, on_meta) | empty))
            for target, like in zip(targets, [shapes] if isinstance(shapes, Tensor) else shapes, strict=True):
                if target.shape != like.shape:
                    target.resize_(like.shape)
        places, named = each(args, remembered), each_value(more, remembered)
        enqueue(lambda: ours(*each(places, on_cpu), **each_value(named, on_cpu)))
        return None if not op._schema.returns else targets[0] if len(targets) == 1 else tuple(targets)

    def called(*args: Any, **more: Any) -> Any:
        has_number = any(tensor and isinstance(one, int | float) for tensor, one in zip(is_tensor, args, strict=False))
        ours, shape = (packet, packet) if has_number else (cpu_op, meta_op)  # which finds the overload for numbers
        return (write if written else results)(args, more, ours, shape)

    return called


def each_value(more: dict[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    return {key: each(one, change) for key, one in more.items()}


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *rest: Any, scale: Any = None) -> Any:
    # By name: F.scaled_dot_product_attention obeys a choice that is the asking thread's to make, and to end.
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return flash(q, k, v, 0.0, *rest[2:3], attn_mask=bias, scale=scale)[0], *nothing(3)


def flash_attention(q: Tensor, k: Tensor, v: Tensor, *rest: Any, scale: Any = None) -> Any:
    return attention(q, k, v, None, None, *rest, scale=scale)[0], *nothing(3), 0, 0, *nothing(3)


def nothing(count: int) -> list[Tensor]:
    return [torch.zeros(()) for _ in range(count)]


def attention_shape(q: Tensor, *_: Any, **__: Any) -> Any:
    batch, heads, length, width = q.shape
    made = torch.empty((batch, length, heads, width), dtype=q.dtype, device="meta").transpose(1, 2)
    return made, *[torch.empty((), device="meta")] * 3


def flash_attention_shape(q: Tensor, *_: Any, **__: Any) -> Any:
    made, *none = attention_shape(q)
    return made, *none, 0, 0, *none


def convolution(x: Tensor, w: Tensor, padding: Any, stride: Any, dilation: Any, groups: int, *_: Any) -> Tensor:
    return torch.nn.functional.conv2d(x, w, None, stride, padding, dilation, groups)


def transposed(x: Tensor, w: Tensor, padding: Any, more: Any, stride: Any, dilation: Any, groups: int, *_: Any) -> Any:
    return torch.nn.functional.conv_transpose2d(x, w, None, stride, padding, more, groups, dilation)


def batch_norm(x: Tensor, w: Tensor, b: Tensor, mean: Tensor, var: Tensor, _: bool, momentum: float, eps: float) -> Any:
    made = torch.nn.functional.batch_norm(x, mean, var, w, b, False, momentum, eps)
    return made, *[torch.empty(0, device=x.device)] * 3


def native_batch_norm(*args: Any) -> Any:
    return batch_norm(*args)[:3]


CPU_OPS: dict[str, tuple[Made, Made]] = {  # what CPUs know by other names: how it is computed, and how it looks
    "_scaled_dot_product_efficient_attention": (attention, attention_shape),
    "_scaled_dot_product_flash_attention": (flash_attention, flash_attention_shape),
    "cudnn_batch_norm": (batch_norm, batch_norm),
    "cudnn_convolution": (convolution, convolution),
    "cudnn_convolution_transpose": (transposed, transposed),
    "native_batch_norm": (native_batch_norm, native_batch_norm),
}

COPY = torch.ops.aten.copy_.default
TORCHS_OWN = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)  # which is the same for all devices


def copy(to: Tensor, values: Tensor, non_blocking: bool = False) -> Tensor:
    """Torch's own where it asks the runtime alone: between dense tensors of one type."""
    values = values.expand_as(to)
    if to.dtype == values.dtype and to.is_contiguous() and values.is_contiguous():
        copied: Tensor = COPY.redispatch(TORCHS_OWN, to, values, non_blocking)
        return copied
    if to.is_cuda and values.is_cuda:
        place, source = Memory(to), Memory(values)
        enqueue(lambda: fill(place, source.on_cpu()))
        return to
    dense = values.contiguous()
    between = torch.empty(values.shape, dtype=values.dtype, device=to.device)
    return to.copy_(between.copy_(dense, non_blocking=non_blocking and to.is_cuda and dense is values))


library = torch.library.Library("aten", "IMPL")
for full_name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA"):
    space, _, known = full_name.partition("::")
    base, _, overload = known.partition(".")
    found = getattr(getattr(torch.ops.aten, base, None), overload or "default", None)
    if space == "aten" and known not in NATIVE and found is not None:
        library.impl(full_name, kernel(known, found), "CUDA", allow_override=True)
library.impl("aten::copy_", copy, "CUDA", allow_override=True)
