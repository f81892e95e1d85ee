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

    `device` and `patience` are the flags', `schema` the columns of the output; `kind` is that of the device on which
    the driver has tried what workers are to do, empty where it has not.
    """

    place: Place
    task: AnyTask
    model: str
    bound: Bound
    device: str
    decode: DecodeSettings
    wanted: Wanted
    schema: pa.Schema
    patience: int
    kind: str = ""

    @property
    def trial(self) -> Trial:
        """Whether a device can compute what the output is bound to."""
        return Trial(self.task, self.model, self.device, self.bound.dtype, self.bound.batch_size, self.bound.compile)


@dataclass(frozen=True)
class Trial:
    """What to find out about a device: the task with its model, and flags.

    They are `--device`, `--dtype`, `--batch-size` (0: auto) and `--compile`.
    """

    task: AnyTask
    model: str
    device: str
    dtype: str
    batch_size: int
    compile: bool = False


@dataclass(frozen=True)
class Device:
    """A device as the driver needs to know it: its kind and name, the dtype it computes in, images per step.

    `cpu_class` is what answers of a CPU depend on in their last bits, empty for others.
    """

    kind: str
    name: str
    dtype: str
    batch_size: int
    cpu_class: str = ""
