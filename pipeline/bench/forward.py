"""The model alone: eager, compiled, next to its matrix products and to transformers with the same weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from beit_core import ModelCard, compile_model, load_embedder, load_model, pack
from pipeline.bench.products import multiply, products_of
from pipeline.bench.timing import LIMIT, OURS, REFERENCE, Figure, figure, in_turns
from pipeline.engine.device import (
    attention,
    auto_batch_size,
    can_compile,
    device_kind,
    keep_freed_memory,
    on_device,
    resolve_dtype,
    when_done,
)

CPU_BATCH = 8  # images per step where none is given: a turn of a base model takes seconds on a CPU
COMPILED = "compiled"


def figures(
    card: ModelCard, *, batch: int = 0, dtype: str = "auto", against_hf: bool = False, compiling: bool = True
) -> list[Figure]:
    """Images per second of a forward pass, per CPU second of one thread or per second of a GPU.

    `batch` 0 chooses one, `dtype` is as `--dtype`. Everything computes the same pixels.
    """
    kind = device_kind()
    dtype, on_cpu = resolve_dtype(dtype, kind), kind == "cpu"
    if on_cpu:
        keep_freed_memory()  # transformers gains by it as well
    size = card.pixels.size or card.config.image_size
    batch = batch or (CPU_BATCH if on_cpu else auto_batch_size(size, kind, dtype))
    pixels = on_device(torch.randn(batch, 3, *size), dtype)
    runs = _runs(card, pixels, dtype, against_hf=against_hf, compiling=compiling and can_compile(kind))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a worker has it; with one per core nothing is gained by more
    try:
        seconds = in_turns(runs, time.process_time if on_cpu else when_done)
    finally:
        torch.set_num_threads(threads)
    per = "CPU second of one thread" if on_cpu else "second"
    step = f"{{}}, {size[0]} x {size[1]}, {dtype}, batches of {batch}"
    compiled = seconds.pop(COMPILED, None)
    found = [figure(step.format("model"), per, batch, seconds)]
    if compiled:
        found.append(figure(step.format("model, compiled"), per, batch, {**seconds, OURS: compiled}))
    return found


def _runs(
    card: ModelCard, pixels: Tensor, dtype: str, *, against_hf: bool, compiling: bool
) -> dict[str, Callable[[], object]]:
    """What is timed, by its name."""
    model = on_device(_ours(card).eval(), dtype)
    products = products_of(lambda: model(pixels))
    if device_kind() == "cpu" and dtype == "bfloat16":  # as the predictor does, here and below
        pack(model)
    runs = {OURS: _pass(lambda: model(pixels), pinned=True), LIMIT: multiply(products, pixels)}
    if compiling:
        compiled = on_device(_ours(card).eval(), dtype)
        compile_model(compiled)
        runs[COMPILED] = _pass(lambda: compiled(pixels), pinned=True)
    if against_hf:
        theirs = on_device(_theirs(card).eval(), dtype)
        runs[REFERENCE] = _pass(lambda: theirs(pixel_values=pixels))
    return runs


def _ours(card: ModelCard) -> Any:
    """The whole model with its head; of an encoder its pooled vector."""
    return load_embedder(card) if card.head == "encoder" else load_model(card)


def _theirs(card: ModelCard) -> nn.Module:
    import transformers

    kinds = {
        "classifier": "BeitForImageClassification",
        "segmenter": "BeitForSemanticSegmentation",
        "masked": "BeitForMaskedImageModeling",
    }
    model: nn.Module = getattr(transformers, kinds.get(card.head, "BeitModel")).from_pretrained(card.path)
    return model


def _pass(compute: Callable[[], object], *, pinned: bool = False) -> Callable[[], object]:
    """What is timed; `pinned` with the attention kernels of a predictor, else with those that torch chooses."""

    def run() -> None:
        with torch.inference_mode(), attention(device_kind()) if pinned else nullcontext():
            compute()

    return run
