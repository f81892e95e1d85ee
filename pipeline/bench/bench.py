"""What this machine can do: images per second of every step, next to its limits and to the reference.

Trust the ratios: machines differ and their speed drifts, for all that is compared alike.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from beit_core import ModelCard, load_card
from pipeline import model_files, storage
from pipeline.bench.cost import decode_cost
from pipeline.bench.feed import feed
from pipeline.bench.made import make_model, make_tars, photo
from pipeline.bench.nothing import Images
from pipeline.bench.timing import Figure
from pipeline.engine.cores import cores
from pipeline.errors import ConfigError

STEPS = ("decode", "model", "feed", "run")
COSTED = 16  # images decoded in a turn
RUN_IMAGES = 512  # of the run where no input is given: on CPUs 16 spans
HEAD = "| step | images per | images | of the limit | next to transformers |\n|---|---|--:|---|---|"


@dataclass(frozen=True)
class Wish:
    """What to measure; without `inputs` and `model` images and a model are made, `batch` 0 chooses a size."""

    model: str | None = None
    inputs: Sequence[str] = ()
    steps: Sequence[str] = STEPS
    against_hf: bool = False
    batch: int = 0
    compiling: bool = True
    ray_address: str | None = None


@dataclass
class Report:
    """What was measured, on what; `notes` are sentences beside the figures."""

    about: Mapping[str, str]
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        parts = [", ".join(self.about.values()), "", HEAD, *map(_line, self.figures), "", *self.notes, self.verdict]
        return "\n".join(parts)

    @property
    def verdict(self) -> str:
        """The last step measured, in one line."""
        last = self.figures[-1]
        share = f", {last.share.median:.2f} of what its limit is" if last.share else ""
        ratio = f", {last.ratio.median:.2f} times transformers" if last.ratio else ""
        return f"{last.step}: {last.ours:,.1f} images per {last.per}{share}{ratio}"

    def to_json(self) -> dict[str, object]:
        """Everything, as JSON knows it."""
        return {**asdict(self), "verdict": self.verdict}


def _line(figure: Figure) -> str:
    share = f"{figure.share} of {figure.limit:,.1f}" if figure.share else ""
    ratio = f"{figure.ratio}, {figure.reference:,.1f}" if figure.ratio else ""
    return f"| {figure.step} | {figure.per} | {figure.ours:,.1f} | {share} | {ratio} |"


def bench(wish: Wish, job: Path, work: Path) -> Report:
    """Measure the steps asked for; `job` is the script whose whole run is measured, `work` an empty folder.

    Raises ConfigError where transformers is asked for and not there, an input has no image, or a tokenizer is to be
    measured as a model, PipelineError where the whole run fails.
    """
    if wish.batch < 0:
        raise ConfigError(f"--batch-size {wish.batch}: give a number above 0, or leave it out for auto")
    if wish.against_hf:
        _need_transformers()
    with storage.checking(f"--model {wish.model}"):
        card = model_files.read(wish.model) if wish.model else load_card(make_model(work / "model"))
    if card.head == "dvae" and (needed := {"model", "run"} & set(wish.steps)):
        said = "is a tokenizer, which is not measured alone or in a run"
        raise ConfigError(
            f"--model {wish.model} {said}: give a BEiT, or leave {' and '.join(sorted(needed))} out of --steps"
        )
    about = {
        "machine": _machine(),
        "model": wish.model or "BEiT-base with random weights",
        "torch": f"torch {version('torch')}",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    report = Report(about)
    if "decode" in wish.steps:
        _decode(wish, card, report)
    eager = _model(wish, card, report) if {"model", "run"} & set(wish.steps) else None
    if "feed" in wish.steps:
        _feed(wish, report)
    if eager is not None and "run" in wish.steps:
        _run(wish, card, job, work, report, eager)
    return report


def _decode(wish: Wish, card: ModelCard, report: Report) -> None:
    from pipeline.bench import decoding

    files = [photo()] * COSTED
    if wish.inputs:
        files = Images.of(wish.inputs).decodable(COSTED)
    report.figures += decoding.figures(files, card.pixels, against_hf=wish.against_hf)
    if card.pixels.size is not None and sys.platform == "linux":
        report.notes.append(str(decode_cost(files, card.pixels)))


def _model(wish: Wish, card: ModelCard, report: Report) -> Figure:
    """Measure the model alone; the figure of the eager one."""
    from pipeline.bench import forward

    found = forward.figures(card, batch=wish.batch, against_hf=wish.against_hf, compiling=wish.compiling)
    report.figures += found
    return found[0]


def _feed(wish: Wish, report: Report) -> None:
    fed = feed(wish.inputs, ray_address=wish.ray_address)
    report.figures.append(Figure(f"images fed through {fed.way}", "second", fed.through, fed.bare, fed.share))


def _run(wish: Wish, card: ModelCard, job: Path, work: Path, report: Report, eager: Figure) -> None:
    from pipeline.bench import end_to_end

    inputs = wish.inputs or [make_tars(work / "photos", RUN_IMAGES)]
    rate = end_to_end.whole_run(job, str(card.path), inputs, work, wish.ray_address)
    looped = end_to_end.some_of(Images.of(inputs)) if wish.against_hf else []
    report.figures.append(end_to_end.figure(card, rate, looped, eager.ours))


def _machine() -> str:
    """Its GPU, if there is one that works, and its cores."""
    from pipeline.engine.device import device_kind, device_name  # here: --help is not to wait for torch

    kind, cpus = device_kind(), f"{cores()} cores of {_processor()}"
    return cpus if kind == "cpu" else f"{device_name(kind)}, {cpus}"


def _need_transformers() -> None:
    if importlib.util.find_spec("transformers") is None:
        raise ConfigError("--against hf needs transformers: pip install transformers")
    from transformers.utils import logging

    logging.set_verbosity_error()  # it lists the head's tensors, which an encoder does not read
    logging.disable_progress_bar()


def _processor() -> str:
    """The processor's name, as Linux knows it."""
    info = Path("/proc/cpuinfo")
    names = info.read_text().split("model name\t: ")[1:] if info.is_file() else []
    return names[0].partition("\n")[0] if names else platform.processor() or platform.machine()
