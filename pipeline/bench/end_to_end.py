"""A whole run on this machine as a user starts it, next to a loop of transformers on the same images."""

from __future__ import annotations

import io
import json
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from PIL import Image

from beit_core import ModelCard
from pipeline.bench.nothing import Images
from pipeline.bench.timing import Figure, Spread
from pipeline.engine.cores import cores
from pipeline.engine.device import device_kind, on_device, resolve_dtype
from pipeline.errors import PipelineError

LOOP_BATCH, LOOP_SHARE = 16, 4  # of the loop: images per step, and one image of so many is enough


def whole_run(job: Path, model: str, inputs: Sequence[str], work: Path, ray_address: str | None) -> float:
    """Images per second of `job` on these inputs with every flag at its default, start-up excluded.

    Raises PipelineError where the run fails or is too short to tell.
    """
    output = work / "whole-run"
    command = [sys.executable, str(job), "--input", *inputs, "--output", str(output), "--model", model]
    command += ["--ray-address", ray_address] if ray_address else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PipelineError(f"{job.name} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    (report,) = (json.loads(path.read_text()) for path in (output / "runs").glob("*.json"))
    return steady(report["throughput"], report["workers"])


def steady(curve: Sequence[tuple[float, int]], workers: int) -> float:
    """Images per second of (seconds, images so far), from when each worker can have finished a span."""
    begin = min(workers, len(curve) - 2)
    if begin < 1:
        raise PipelineError("the run has too few spans to tell its rate: give more images")
    (began, before), (ended, images) = curve[begin], curve[-1]
    return (images - before) / max(ended - began, 1e-9)


def loop(card: ModelCard, files: Sequence[bytes], dtype: str) -> float:
    """Images per second of transformers' processor and model, one batch after the other, on all cores or the GPU."""
    from transformers import BeitImageProcessorPil, BeitModel

    torch.set_num_threads(cores())
    model = BeitModel.from_pretrained(card.path).eval()
    model = on_device(model, dtype)
    processor = BeitImageProcessorPil.from_pretrained(card.path)
    batches = [files[start : start + LOOP_BATCH] for start in range(0, len(files), LOOP_BATCH)]

    def one(batch: Sequence[bytes]) -> None:
        pictures = [Image.open(io.BytesIO(data)).convert("RGB") for data in batch]
        pixels = processor(pictures, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            model(pixel_values=on_device(pixels, dtype)).pooler_output.float().cpu()

    one(batches[0])
    began = time.perf_counter()
    for batch in batches:
        one(batch)
    return len(files) / (time.perf_counter() - began)


def some_of(images: Images) -> list[bytes]:
    """As many of the images as a loop needs to tell its rate; raises ConfigError where all are damaged."""
    return images.decodable(max(LOOP_BATCH, len(images.files) // LOOP_SHARE))


def figure(card: ModelCard, rate: float, looped: Sequence[bytes], single_core: float) -> Figure:
    """The run's rate; its limit is what the model does on one core, `single_core` images a second, on all of them.

    With images to loop over, a loop of transformers over them stands beside it.
    """
    limit = single_core * (cores() if device_kind() == "cpu" else 1)
    reference = ratio = None
    if looped:
        # In a process of its own, as its user would run it: in this one it would gain by what workers set up.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            reference = pool.submit(loop, card, looped, resolve_dtype("auto", device_kind())).result()
        ratio = Spread(*[rate / reference] * 3)
    step = f"a run on {cores()} cores, start-up excluded"
    return Figure(step, "second", rate, limit, Spread(*[rate / limit] * 3), reference, ratio)
