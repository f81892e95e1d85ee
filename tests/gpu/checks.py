"""What must hold on an accelerator as it does on a CPU."""

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pyarrow as pa
import torch

import beit_core
from beit_core import ModelCard, load_card
from pipeline.engine.device import NATIVE_BFLOAT16, device_kind
from pipeline.engine.predictor import Predictor
from pipeline.task import Batch, Columns, Task

ROOT = Path(__file__).resolve().parents[2]
DIGITS, SCENES = ROOT / "tests/data/digits", ROOT / "tests/data/digits-seg"
# Of the contract: float32 absolute and relative; bfloat16 cosine and top-1.
FLOAT32, COSINE, MARGIN = 1e-5, 0.9995, 1e-2
CLEAR = 3  # a seed of pictures whose first classes are more than 0.2 apart: bfloat16 moves logits by 0.03
JOB_S = 180  # a job that takes longer has hung


class Check(NamedTuple):
    """One line of the table; `holds` is None for what is measured and not judged."""

    name: str
    value: str
    bound: str
    holds: bool | None


@dataclass(frozen=True)
class Raw(Task[Any]):
    """What a model of any head computes, before it becomes an answer."""

    name: ClassVar[str] = "raw"

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - never written
        return {}

    def load(self, card: ModelCard) -> Any:
        return beit_core.load_embedder(card) if card.head == "encoder" else beit_core.load_model(card)

    def predict(self, model: Any, batch: Batch) -> Columns:
        answer = model(batch.pixels)
        return {"raw": (answer[1] if isinstance(answer, tuple) else answer).float()}


def noise(card: ModelCard, count: int, seed: int = 0) -> np.ndarray:
    """Pictures of a model's size: coarse squares, so that they differ for the model too."""
    height, width = card.pixels.size or (64, 64)
    coarse = np.random.default_rng(seed).integers(0, 256, (count, height // 8, width // 8, 3), np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def asked(predictor: Predictor, pictures: np.ndarray) -> np.ndarray:
    """What the model computes for a batch of pictures."""
    uris, sizes = [str(n) for n in range(len(pictures))], [pictures.shape[1:3]] * len(pictures)
    step = predictor.step(predictor.prepare((pictures,), uris, sizes))
    answers = step.answers()
    if step.reason is not None:
        raise RuntimeError(step.reason)
    return np.asarray(answers["raw"])


def parity(name: str, model: Path, count: int = 4) -> Iterator[Check]:
    """A head in float32 and bfloat16 on this machine's device, against float32 on its CPU."""
    card = load_card(model)
    pictures = noise(card, count, seed=CLEAR)
    here = {dtype: Predictor(Raw(), card, dtype=dtype, batch_size=count) for dtype in ("float32", "bfloat16")}
    wanted = asked(Predictor(Raw(), card, dtype="float32", batch_size=count, device="cpu"), pictures)
    full, half = (asked(predictor, pictures) for predictor in here.values())
    error = float((np.abs(full - wanted) / (1 + np.abs(wanted))).max())
    whole = float(np.linalg.norm(full - wanted) / np.linalg.norm(wanted))
    # Of maps with millions of logits one or the other is a sum of so many terms that its order shows.
    judged = error if name in ("encoder", "classifier") else whole
    said = f"{error:.1e}, of the norm {whole:.1e}"
    yield Check(f"{name}, float32: greatest error", said, f"{FLOAT32:.0e}", judged <= FLOAT32)
    cosine = min(map(_cosine, half, wanted))
    yield Check(f"{name}, bfloat16: least cosine", f"{cosine:.5f}", f"{COSINE}", cosine >= COSINE)
    if name == "classifier":
        ordered = np.sort(wanted, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > MARGIN
        same, most = int((half.argmax(1) == wanted.argmax(1))[clear].sum()), int(clear.sum())
        yield Check("classifier, bfloat16: same top-1 where clear", f"{same}", f"{most}", same == most)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    one, other = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def slots(name: str, model: Path, count: int = 8) -> Iterator[Check]:
    """An answer depends on its picture and slot alone."""
    card = load_card(model)
    pictures, others = noise(card, count), noise(card, count, seed=1)
    predictor = Predictor(Raw(), card, dtype=native(), batch_size=count)
    first, again = asked(predictor, pictures), asked(predictor, pictures)
    same = first.tobytes() == again.tobytes()
    yield Check(f"{name}: the same bytes from two runs", str(same), "True", same)
    others[3] = pictures[3]
    others[5:] = 0
    beside = asked(predictor, others)
    same = beside[3].tobytes() == first[3].tobytes()
    yield Check(f"{name}: the same bytes beside other pictures and padding", str(same), "True", same)


def memory(model: Path, count: int) -> Iterator[Check]:
    """A batch that does not fit is computed in parts, and comes out as it would have."""
    if not torch.cuda.is_available():
        yield Check("out of memory", "no device whose memory could end", "", None)
        return
    card = load_card(model)
    pictures = noise(card, count)
    predictor = Predictor(Raw(), card, dtype=native(), batch_size=count)
    asked(predictor, pictures)  # what is made once
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    wanted = asked(predictor, pictures)
    needed = torch.cuda.max_memory_allocated() - before
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + needed / 2) / total))
    try:
        found = asked(predictor, pictures)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    cosine = min(map(_cosine, found, wanted))
    holds = predictor.at_once < count and cosine >= COSINE
    yield Check(
        "out of memory: parts, and least cosine", f"{predictor.at_once} of {count}, {cosine:.5f}", f"{COSINE}", holds
    )


def jobs(folder: Path, masked: Path, dvae: Path) -> Iterator[Check]:
    """The four tasks as a user runs them; labels are held against those that the images have."""
    digits = ["--input", DIGITS / "shards", "--model", DIGITS / "model"]
    done = _job("label.py", *digits, "--keep", "cls", "--dtype", "float32", "--output", folder / "label")
    yield Check("label", done, "ok", done == "ok")
    said = run("evaluate.py", folder / "label", "--truth", "cls").stdout
    right = re.search(r"([\d,]+) of 360", said)
    yield Check("labels that are right", right[1] if right else said.strip(), "357", bool(right) and right[1] == "357")
    for script, flags in (
        ("embed.py", digits),
        ("segment.py", ["--input", SCENES / "shards", "--model", SCENES / "model"]),
        ("tokens.py", ["--input", DIGITS / "shards", "--model", masked, "--tokenizer", dvae]),
    ):
        done = _job(script, *flags, "--output", folder / script)
        yield Check(script.removesuffix(".py"), done, "ok", done == "ok")


def _job(script: str, *flags: object) -> str:
    done = run(script, *flags, "--local")
    return "ok" if done.returncode == 0 else f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}"


def run(script: str, *flags: object) -> subprocess.CompletedProcess[str]:
    """A job, as a user runs it; raises TimeoutExpired for one that hangs."""
    command = [sys.executable, f"jobs/{script}", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=JOB_S)


def native() -> str:
    """The dtype that this machine's device computes fastest."""
    if device_kind() == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    return "bfloat16" if any(torch.cpu.get_capabilities().get(name) for name in NATIVE_BFLOAT16) else "float32"
