"""What a run costs its driver, in CPU time: planning, receipts, the audit. A run of a task that costs nothing.

python -m tests.torture.driver_cost INPUT OUTPUT LOADS [--ray] [--limit N]     # LOADS: a folder, a file for each load
"""

import argparse
import functools
import json
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import torch

from beit_core import ModelCard
from pipeline import run
from pipeline.config import RunConfig
from pipeline.output.ledger import Ledger
from pipeline.plan.planner import Planner
from pipeline.plan.rows import Row
from pipeline.task import Batch, Columns, Task
from tests.helpers import DATA

SPENT: Counter[str] = Counter()
LOCK = threading.Lock()


@dataclass(frozen=True)
class Mean(Task):
    """A task that costs nothing and leaves a file for each time that its model is loaded."""

    name: ClassVar[str] = "mean"
    loads: str = field(default="", metadata={"help": "folder with a file for each load"})

    def settings(self, card: ModelCard) -> dict[str, Any]:  # noqa: ARG002 - loading changes no answer
        return {}

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"mean": pa.float32()}

    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        os.close(tempfile.mkstemp(prefix=f"{os.getpid()}-", dir=self.loads)[0])
        return torch.nn.Identity()

    def predict(self, model: Any, batch: Batch) -> Columns:
        return {"mean": model(batch.pixels).float().mean((1, 2, 3))}


def spend(step: str, began: float) -> None:
    with LOCK:
        SPENT[step] += time.thread_time() - began


def watch_planning() -> None:
    """Count the CPU time of the planner, whatever thread asks it for rows."""
    rows = Planner.rows

    @functools.wraps(rows)
    def watched(self: Planner, sources: Any) -> Iterator[Row]:
        stream = rows(self, sources)
        while True:
            began = time.thread_time()
            row = next(stream, None)
            spend("plan", began)
            if row is None:
                return
            yield row

    Planner.rows = watched  # type: ignore[method-assign]


def watch(kind: type, name: str, step: str) -> None:
    """Count the CPU time of a method that runs in threads of its own."""
    method: Callable[..., Any] = getattr(kind, name)

    @functools.wraps(method)
    def watched(*args: Any) -> Any:
        began = time.thread_time()
        try:
            return method(*args)
        finally:
            spend(step, began)

    setattr(kind, name, watched)


def main() -> None:
    """One run; a line of JSON says what was spent, in seconds of CPU."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("input", "output", "loads"):
        parser.add_argument(name)
    parser.add_argument("--ray", action="store_true")
    parser.add_argument("--limit", type=int)
    flags = parser.parse_args()
    watch_planning()
    watch(Ledger, "_footer", "footers")
    config = RunConfig(
        (flags.input,), flags.output, str(DATA / "digits/model"), local=not flags.ray, limit=flags.limit, span_size=1,
        dtype="float32",
    )  # fmt: skip
    began, whole = time.thread_time(), time.process_time()
    code = run.run(config, Mean(flags.loads))
    told = {"code": code, **SPENT, "main": time.thread_time() - began, "all": time.process_time() - whole}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
