"""Runs the checks and measurements of this folder, prints a table, and writes it as JSON and Markdown.

Both files are written after each part: whatever a device does to this process, what it told before is not lost.

python -m tests.gpu [--small] [--out FOLDER]    # on a GPU under 8 minutes; --small: a model that a CPU computes at once
"""

import argparse
import json
import platform
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from pipeline.engine.device import device_kind, device_name
from pipeline.log import answer, say
from tests.gpu import checks, speed
from tests.gpu.checks import Check
from tests.gpu.models import HEADS, save_seeded
from tests.models import save_dvae, save_masked

Part = Callable[[], Iterator[Check]]


def parts(work: Path, *, small: bool) -> Iterator[tuple[str, Part]]:
    """Everything that is done, by title."""
    models = {head: save_seeded(work / f"models/{head}", head, small=small) for head in HEADS}
    masked, dvae = save_masked(work / "models/digits-masked"), save_dvae(work / "models/dvae", side=64)
    for head, model in models.items():
        yield f"parity of the {head}", partial(checks.parity, head, model)
    for head in ("classifier", "segmenter"):
        yield f"slots of the {head}", partial(checks.slots, head, models[head])
    # What torch takes of a device it takes in pieces of 2 MiB: fewer small pictures need no more than one.
    yield "memory", partial(checks.memory, models["classifier"], 2048 if small else 64)
    yield "the four tasks", partial(checks.jobs, work / "jobs", masked, dvae)
    yield "throughput", partial(speed.throughput, models["classifier"], 8 if small else 256, compiling=not small)
    yield "a run", partial(speed.fed, work, models["classifier"], 64 if small else 65536)  # 8 s at 8,000/s


def tried(title: str, part: Part) -> list[Check]:
    """A part's lines; one that cannot be done is a line as well, and the others go on."""
    began, found = time.perf_counter(), list[Check]()
    try:
        found.extend(part())
    except Exception as error:  # whatever a device does to one part, the others are told of too
        found.append(Check(title, f"{type(error).__name__}: {error}".splitlines()[0], "", False))
    say(f"{title}: {time.perf_counter() - began:.1f} s")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a small model, short measurements")
    parser.add_argument("--out", type=Path, default=Path("build/gpu"), help="folder for the results (build/gpu)")
    flags = parser.parse_args()
    shutil.rmtree(flags.out / "work", ignore_errors=True)
    (flags.out / "work").mkdir(parents=True)
    about = {
        "device": device_name(device_kind()), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__, "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": "python -m tests.gpu" + " --small" * flags.small,
    }  # fmt: skip
    found: list[Check] = []
    for title, part in parts(flags.out / "work", small=flags.small):
        found += tried(title, part)
        table = write(flags.out, about, found)
    answer(table)
    shutil.rmtree(flags.out / "work", ignore_errors=True)
    return int(any(check.holds is False for check in found))


def write(folder: Path, about: Mapping[str, str], found: Sequence[Check]) -> str:
    """Leave the table of what is known so far; returns it as Markdown."""
    lines = [f"{', '.join(about.values())}", "", "| what | value | bound | |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {c.name} | {c.value} | {c.bound} | {'' if c.holds is None else 'ok' if c.holds else 'FAILS'} |"
        for c in found
    ]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n")
    (folder / "gpu.json").write_text(json.dumps({**about, "checks": [c._asdict() for c in found]}, indent=1))
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
