"""What this machine can do: images per second of decoding and of the model, optionally beside the reference.

Turns of ours and of the reference alternate. Trust the ratio: machines differ and their speed drifts, for both alike.
"""

from __future__ import annotations

import io
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

import beit_core
from beit_core import ModelCard, PixelSpec, load_card
from pipeline import model_files
from pipeline.bench.cost import DecodeCost, decode_cost
from pipeline.decode.decode import decode
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

TURNS = 5
COSTED = 16  # images decoded in a turn, as in `_decoding`
PICTURE = (500, 375)  # a typical ImageNet file


@dataclass(frozen=True)
class Figure:
    """Images per second of one step, median over the turns; `reference` None where nothing was compared."""

    step: str
    ours: float
    reference: float | None
    ratios: tuple[float, float, float] | None  # minimum, median and maximum of the turns: far apart on a busy machine

    def __str__(self) -> str:
        compared = ""
        if self.ratios:
            least, ratio, greatest = self.ratios
            compared = f"   reference {self.reference:,.1f}/s   ratio {ratio:.2f} ({least:.2f} to {greatest:.2f})"
        return f"{self.step:<44} {self.ours:>9,.1f} images/s{compared}"


def photo() -> bytes:
    """A seeded JPEG with the detail of a photograph, neither flat nor noise."""
    coarse = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)
    picture = Image.fromarray(coarse).resize(PICTURE, Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    picture.effect_spread(3).save(sink, "JPEG", quality=90)
    return sink.getvalue()


def measure(step: str, count: int, ours: Callable[[], object], reference: Callable[[], object] | None) -> Figure:
    """Time both after a warm-up, in alternating turns of `count` images."""
    runs = [ours] + ([reference] if reference else [])
    for run in runs:
        run()
    seconds: list[list[float]] = [[] for _ in runs]
    for _ in range(TURNS):
        for run, spent in zip(runs, seconds, strict=True):
            began = time.perf_counter()
            run()
            spent.append(time.perf_counter() - began)
    rates = [count / statistics.median(spent) for spent in seconds]
    if reference is None:
        return Figure(step, rates[0], None, None)
    ratios = sorted(theirs / mine for mine, theirs in zip(*seconds, strict=True))
    return Figure(step, rates[0], rates[1], (ratios[0], statistics.median(ratios), ratios[-1]))


def bench(model: str | None, *, against_hf: bool, batch: int) -> list[Figure | DecodeCost]:
    """Decoding and predicting with a model folder, or with a random base-size BEiT; on Linux also what decoding costs.

    Against transformers both compute float32 with the same weights, pixels and threads. Raises ConfigError when
    transformers is not there.
    """
    path = model_files.fetch(model) if model is not None else None
    if against_hf:
        _need_transformers()
    card, encoder, reference = _encoders(path, against_hf=against_hf)
    figures: list[Figure | DecodeCost] = [_decoding(card, against_hf=against_hf)]
    spec = card.pixels if card else PixelSpec()
    if spec.size is not None and sys.platform == "linux":
        figures.append(decode_cost([photo()] * COSTED, spec))
    return [*figures, _predicting(card, encoder, reference, batch)]


def _need_transformers() -> None:
    import importlib.util

    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("--against hf needs transformers: pip install transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()  # it lists the head's tensors, which an encoder does not read


def _decoding(card: ModelCard | None, *, against_hf: bool) -> Figure:
    import torch

    data, spec = photo(), card.pixels if card else PixelSpec()
    reference = None
    if against_hf and spec.size is not None:
        from transformers import BeitImageProcessorPil

        size = {"height": spec.size[0], "width": spec.size[1]}
        processor = BeitImageProcessorPil(size=size, do_center_crop=False, resample=spec.resample)

        def reference() -> None:
            for _ in range(16):
                processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")

    def ours() -> None:
        for _ in range(16):
            spec.normalize(torch.from_numpy(decode(data, [spec]).views[0].copy())[None])

    return measure(f"decode {PICTURE[0]} x {PICTURE[1]} JPEG to {spec.size}, one core", 16, ours, reference)


def _encoders(model: Path | None, *, against_hf: bool) -> tuple[ModelCard | None, nn.Module, nn.Module | None]:
    """Card, our encoder and transformers' with the same weights (None unless compared)."""
    import torch

    if model is None:
        torch.manual_seed(0)
        reference = None
        if against_hf:
            from transformers import BeitConfig as Theirs
            from transformers import BeitModel

            reference = BeitModel(Theirs(use_relative_position_bias=True)).eval()
        return None, beit_core.Encoder(beit_core.BeitConfig(relative_bias=True)).eval(), reference
    card = load_card(model)
    if not against_hf:
        return card, beit_core.load_embedder(card), None
    from transformers import BeitModel

    return card, beit_core.load_embedder(card), BeitModel.from_pretrained(card.path).eval()


def _predicting(card: ModelCard | None, encoder: nn.Module, reference: nn.Module | None, batch: int) -> Figure:
    import torch

    from pipeline.engine.device import device_kind, on_device, resolve_dtype

    size = (card.pixels.size or card.config.image_size) if card else (224, 224)
    dtype = "float32" if reference is not None else resolve_dtype("auto", device_kind())
    pixels, encoder = on_device(torch.randn(batch, 3, *size), dtype), on_device(encoder, dtype)
    other = None
    if reference is not None:
        theirs = on_device(reference, dtype)

        def other() -> None:
            with torch.inference_mode():
                theirs(pixel_values=pixels).pooler_output.float().cpu()

    def ours() -> None:
        with torch.inference_mode():
            encoder(pixels).float().cpu()

    return measure(f"predict {size[0]} x {size[1]}, {dtype}, batches of {batch}", batch, ours, other)
