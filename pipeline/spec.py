"""What a worker needs to know, and what is asked of it and known of its device before."""

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


@dataclass(frozen=True)
class Trial:
    """What to find out about a device: the task with its model, `--device`, `--dtype` and `--batch-size` (0: auto)."""

    task: AnyTask
    model: str
    device: str
    dtype: str
    batch_size: int


@dataclass(frozen=True)
class Device:
    """A device as the driver needs to know it: its kind and name, the dtype it computes in, images per step."""

    kind: str
    name: str
    dtype: str
    batch_size: int
