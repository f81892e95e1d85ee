"""How fast a predictor is on this machine: next to the limit that matrix products set, to transformers, and fed."""

import importlib.util
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

from beit_core import load_card
from pipeline.bench.end_to_end import steady
from pipeline.bench.forward import figures
from pipeline.bench.made import make_tars
from pipeline.engine.predictor import Predictor
from tests.gpu.checks import Check, Raw, native, noise, run

TURNS = 5


def throughput(model: Path, batch: int, *, compiling: bool = True) -> Iterator[Check]:
    """A classifier, eager and compiled, next to transformers with the same weights and to the matrix products alone.

    At first it is measured eager alone: the compiler or transformers may be there and not work.
    """
    hf = importlib.util.find_spec("transformers") is not None
    yield from _figures(model, batch)
    yield _launching(model, batch)
    yield from _figures(model, batch, compiling=compiling, against_hf=hf)


def _launching(model: Path, batch: int) -> Check:
    """Where launching takes as long as computing, the device waits for Python, and counts as busy all the same."""
    card = load_card(model)
    predictor = Predictor(Raw(), card, dtype=native(), batch_size=batch)
    batches = predictor.prepare((noise(card, batch),), [""] * batch, [predictor.specs[0].size or (1, 1)] * batch)
    launched, computed = list[float](), list[float]()
    for _ in range(TURNS):
        began = time.perf_counter()
        step = predictor.step(batches)
        launched.append(time.perf_counter() - began)
        step.answers()
        computed.append(step.seconds)
    said = f"{min(launched) * 1000:.1f} ms to launch, {min(computed) * 1000:.1f} ms to compute"
    return Check(f"a batch of {batch}, eager, alone in its process", said, "", None)


def _figures(model: Path, batch: int, *, compiling: bool = False, against_hf: bool = False) -> Iterator[Check]:
    card = load_card(model)
    for figure in figures(card, batch=batch, dtype=native(), against_hf=against_hf, compiling=compiling):
        beside = f", {figure.ratio} times transformers" if figure.ratio else ""
        said = f"{figure.ours:,.0f} images per {figure.per}, {figure.share} of the matrix products{beside}"
        yield Check(figure.step, said, "", None)


def fed(folder: Path, model: Path, images: int) -> Iterator[Check]:
    """A whole run on JPEGs of 500 x 375 in tars: images per second, and whether the device waited for them."""
    source = make_tars(folder / "photos", images)
    flags = ["--input", source, "--model", model, "--dtype", native(), "--output", folder / "fed", "--local"]
    said = run("label.py", *flags).stdout
    speed = re.search(r"\(([\d,.]+)/s\)", said)
    holds = None if speed else False
    yield Check(
        f"a run on {images:,} photographs, start included", f"{speed[1]} images/s" if speed else said, "", holds
    )
    for path in (folder / "fed/runs").glob("*.json"):
        report = json.loads(path.read_text())
        rate = steady(report["throughput"], report["workers"])
        yield Check("the same, from the first files on", f"{rate:,.0f} images/s", "", None)
    verdict = re.search(r"the accelerators were busy.*", said)
    yield Check("the device", verdict[0] if verdict else "is the CPU, or too little was done to tell", "", None)
