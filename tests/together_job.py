"""A job whose workers wait for each other: none answers before so many of them have been asked.

python tests/together_job.py ... --meet FOLDER --number N
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "jobs"))

from _cli import main

import pyarrow as pa
import torch

from beit_core import ModelCard
from pipeline.task import Batch, Columns, Task

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Together(Task):
    name: ClassVar[str] = "together"
    meet: str = field(default="", metadata={"help": "folder with a file for each worker that was asked"})
    number: int = field(default=2, metadata={"help": "how many workers wait for each other"})

    def settings(self, card: ModelCard) -> dict[str, Any]:  # noqa: ARG002 - waiting changes no answer
        return {}

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"mean": pa.float32()}

    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        return torch.nn.Identity()

    def predict(self, model: Any, batch: Batch) -> Columns:
        Path(self.meet, str(os.getpid())).touch()
        deadline = time.monotonic() + PATIENCE_S
        while len(os.listdir(self.meet)) < self.number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.number} workers should have been asked")
            time.sleep(0.01)
        return {"mean": model(batch.pixels).float().mean((1, 2, 3))}


if __name__ == "__main__":
    main(Together, __doc__)
