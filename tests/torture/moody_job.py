"""A job whose device fails: so often as there is no file for each failure in a folder.

python tests/torture/moody_job.py ... --strikes FOLDER --times N
"""

import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "jobs"))

from _cli import main

import pyarrow as pa
import torch

from beit_core import ModelCard
from pipeline.task import Batch, Columns, Task


@dataclass(frozen=True)
class Moody(Task):
    name: ClassVar[str] = "moody"
    strikes: str = field(default="", metadata={"help": "folder with a file for each failure"})
    times: int = field(default=0, metadata={"help": "how often the device fails"})

    def settings(self, card: ModelCard) -> dict[str, Any]:  # noqa: ARG002 - failures change no answer
        return {}

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"mean": pa.float32()}

    def load(self, card: ModelCard) -> torch.nn.Module:  # noqa: ARG002 - as above
        return torch.nn.Identity()

    def predict(self, model: Any, batch: Batch) -> Columns:
        if len(os.listdir(self.strikes)) < self.times:
            Path(self.strikes, f"{os.getpid()}-{time.monotonic_ns()}").touch()  # a process may become a fresh one
            raise torch.AcceleratorError("an illegal memory access was encountered")
        return {"mean": model(batch.pixels).float().mean((1, 2, 3))}


if __name__ == "__main__":
    main(Moody, __doc__)
