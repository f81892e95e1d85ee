"""What a worker needs to know."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.decode.decode import DecodeSettings
from pipeline.output.bound import Bound
from pipeline.output.place import Place
from pipeline.source.item import Wanted
from pipeline.task import Task


@dataclass(frozen=True)
class JobSpec:
    """Small enough to travel with every Ray task; the model is found on the node, under the name `model`.

    `batch_size` is the flag's (0: auto), `schema` the columns of the output.
    """

    place: Place
    task: Task
    model: str
    bound: Bound
    batch_size: int
    decode: DecodeSettings
    wanted: Wanted
    schema: pa.Schema
