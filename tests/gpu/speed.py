"""How fast a predictor is on this machine: next to the limit that matrix products set, to transformers, and fed."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

from beit_core import load_card
from pipeline.bench.forward import figures
from pipeline.bench.made import make_tars
from tests.gpu.checks import Check, run


def throughput(model: Path, dtype: str, batch: int, *, compiling: bool = True) -> Iterator[Check]:
    """A classifier, eager and compiled, next to transformers with the same weights and to the matrix products alone."""
    hf = importlib.util.find_spec("transformers") is not None
    for figure in figures(load_card(model), batch=batch, dtype=dtype, against_hf=hf, compiling=compiling):
        beside = f", {figure.ratio} times transformers" if figure.ratio else ""
        said = f"{figure.ours:,.0f} images per {figure.per}, {figure.share} of the matrix products{beside}"
        yield Check(figure.step, said, "", None)


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
