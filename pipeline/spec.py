"""What a worker needs to know."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from pipeline.decode.decode import DecodeSettings
from pipeline.output.bound import Bound
from pipeline.output.place import Place
from pipeline.source.item import Wanted
from pipeline.task import AnyTask


@dataclass(frozen=True)
class JobSpec:
    """Small enough to travel with every Ray task; the model is found on the node, under the name `model`.

    `device` and `patience` are the flags', `schema` the columns of the output.
    """

    place: Place
    task: AnyTask
    model: str
    bound: Bound
    device: str
    decode: DecodeSettings
    wanted: Wanted
    schema: pa.Schema
    patience: int = 600
