"""Decoding and resizing on one core, next to the decoder alone and to the image processor of transformers."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image

from beit_core import PixelSpec
from pipeline.bench.timing import LIMIT, OURS, REFERENCE, Figure, figure, in_turns
from pipeline.decode.decode import decode, fit, open_upright

PER = "CPU second of one thread"


def figures(files: Sequence[bytes], spec: PixelSpec, *, against_hf: bool) -> list[Figure]:
    """Images per CPU second, with and without `--exact`; for both the limit is the decoder that makes all pixels."""
    found: list[Figure] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for exact in (False, True):
            runs: dict[str, Callable[[], object]] = {OURS: _ours(files, spec, exact=exact), LIMIT: _alone(files)}
            if against_hf and spec.size is not None:
                runs[REFERENCE] = _theirs(files, spec)
            name = f"decode to {_shown(spec)}{', --exact' if exact else ''}"
            found.append(figure(name, PER, len(files), in_turns(runs, time.process_time)))
            runs = {OURS: _resizing(files, spec, exact=exact)}
            name = f"resize to {_shown(spec)}{', --exact' if exact else ''}"
            found.append(figure(name, PER, len(files), in_turns(runs, time.process_time)))
    finally:
        torch.set_num_threads(threads)
    return found


def _ours(files: Sequence[bytes], spec: PixelSpec, *, exact: bool) -> Callable[[], object]:
    return lambda: [decode(data, [spec], exact=exact) for data in files]


def _alone(files: Sequence[bytes]) -> Callable[[], object]:
    return lambda: [Image.open(io.BytesIO(data)).load() for data in files]


def _resizing(files: Sequence[bytes], spec: PixelSpec, *, exact: bool) -> Callable[[], object]:
    pictures = [open_upright(data) for data in files]
    return lambda: [fit(picture, spec, (picture.height, picture.width), exact=exact) for picture in pictures]


def _theirs(files: Sequence[bytes], spec: PixelSpec) -> Callable[[], object]:
    from transformers import BeitImageProcessorPil

    height, width = spec.size or (0, 0)
    size = {"height": height, "width": width}
    processor = BeitImageProcessorPil(size=size, do_center_crop=False, resample=spec.resample)

    def run() -> None:
        for data in files:
            processor(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")

    return run


def _shown(spec: PixelSpec) -> str:
    return f"{spec.size[0]} x {spec.size[1]}" if spec.size else "its own size"
