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

    `device`, `patience` and `gpus_per_worker` are the flags', `schema` the columns of the output; `device_kind` is that
    of the device on which the driver has tried what workers are to do, empty where it has not.
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
    device_kind: str = ""
    gpus_per_worker: float = 1.0

    @property
    def trial(self) -> Trial:
        """Whether a device can compute what the output is bound to."""
        return Trial(
            task=self.task,
            model=self.model,
            device=self.device,
            dtype=self.bound.dtype,
            batch_size=self.bound.batch_size,
            compile=self.bound.compile,
            gpus_per_worker=self.gpus_per_worker,
        )


@dataclass(frozen=True)
class Trial:
    """What to find out about a device: the task with its model, and flags.

    They are `--device`, `--dtype`, `--batch-size` (0: auto), `--compile` and `--gpus-per-worker`.
    """

    task: AnyTask
    model: str
    device: str
    dtype: str
    batch_size: int
    compile: bool = False
    gpus_per_worker: float = 1.0


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
