"""How fast a predictor is on this machine: next to the limit that matrix products set, to transformers, and fed."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from beit_core import ModelCard, load_card
from pipeline.bench.nothing import make_tars
from pipeline.engine.device import DTYPES, device_kind
from pipeline.engine.predictor import Predictor
from tests.gpu.checks import Check, Raw, noise, run

SECONDS = 4.0  # that each of them is timed for


def rate(ask: Callable[[], object], images: int, seconds: float) -> float:
    """Images per second, the device's work included, after a warm-up."""
    ask()
    wait()
    began, count = time.perf_counter(), 0
    while count < 2 or time.perf_counter() - began < seconds:
        ask()
        count += 1
        wait()
    return images * count / (time.perf_counter() - began)


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def throughput(
    model: Path, dtype: str, batch: int, seconds: float = SECONDS, *, compiling: bool = True
) -> Iterator[Check]:
    """A classifier, eager and compiled, transformers with the same weights, and the matrix products alone."""
    card = load_card(model)
    limit = rate(products(card, dtype, batch), batch, seconds)
    yield Check(f"matrix products alone, {dtype}, batches of {batch}", f"{limit:,.0f} images/s", "", None)
    pictures = noise(card, batch)
    for name in ("eager", "compiled") if compiling else ("eager",):
        predictor = Predictor(Raw(), card, dtype=dtype, batch_size=batch, compiled=name == "compiled")
        ready = predictor.prepare((pictures,), [""] * batch, [(1, 1)] * batch)
        found = rate(lambda ready=ready, predictor=predictor: predictor.step(ready), batch, seconds)  # type: ignore[misc]
        yield Check(f"predictor, {name}", f"{found:,.0f} images/s, {found / limit:.2f} of the limit", "", None)
    if (theirs := transformers(card, dtype, batch)) is not None:
        found = rate(theirs, batch, seconds)
        yield Check("transformers, eager", f"{found:,.0f} images/s, {found / limit:.2f} of the limit", "", None)


def products(card: ModelCard, dtype: str, batch: int) -> Callable[[], object]:
    """The large matrix products of a forward pass, and nothing between them."""
    config, kind = card.beit, device_kind()
    tokens = batch * (1 + config.grid[0] * config.grid[1])
    options: dict[str, Any] = {"device": kind, "dtype": DTYPES[dtype]}
    width, hidden = config.width, config.mlp_width
    shapes = [(width, 3 * width), (width, width), (width, hidden), (hidden, width)]
    pairs = [(torch.randn(tokens, a, **options), torch.randn(a, b, **options)) for a, b in shapes]

    def ask() -> None:
        with torch.inference_mode():
            if kind == "cpu":
                torch.set_num_threads(1)
            for _ in range(config.depth):
                for left, right in pairs:
                    left @ right

    return ask


def transformers(card: ModelCard, dtype: str, batch: int) -> Callable[[], object] | None:
    """The reference's forward pass, where it is installed."""
    try:
        from transformers import BeitForImageClassification
    except ImportError:
        return None
    kind = device_kind()
    model = BeitForImageClassification.from_pretrained(card.path).eval().to(device=kind, dtype=DTYPES[dtype])
    pixels = torch.randn(batch, 3, *(card.pixels.size or (1, 1)), device=kind, dtype=DTYPES[dtype])

    def ask() -> object:
        with torch.inference_mode():
            return model(pixel_values=pixels).logits

    return ask


def fed(folder: Path, model: Path, dtype: str, images: int) -> Iterator[Check]:
    """A whole run on JPEGs of 500 x 375 in tars: images per second, and whether the device waited for them."""
    source = make_tars(folder / "photos", images)
    flags = ["--input", source, "--model", model, "--dtype", dtype, "--output", folder / "fed", "--local"]
    said = run("label.py", *flags).stdout
    speed = re.search(r"\(([\d,.]+)/s\)", said)
    holds = None if speed else False
    yield Check(
        f"a run on {images:,} photographs, start included", f"{speed[1]} images/s" if speed else said, "", holds
    )
    verdict = re.search(r"the accelerators were busy.*", said)
    yield Check("the device", verdict[0] if verdict else "is the CPU, or too little was done to tell", "", None)
