"""The model of a job on this node, and what `auto` means for it."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass

from beit_core import load_card
from pipeline import model_files, storage
from pipeline.engine.device import auto_batch_size, device_kind, device_name, resolve_dtype
from pipeline.engine.predictor import Predictor
from pipeline.errors import PipelineError
from pipeline.output.place import Place
from pipeline.spec import JobSpec


@dataclass(frozen=True)
class Device:
    """A device as the driver needs to know it: its kind and name, the dtype it computes in, images per step."""

    kind: str
    name: str
    dtype: str
    batch_size: int


def device_here(wanted: str, dtype: str, size: tuple[int, int] | None) -> Device:
    """This process's device, for `--device`, `--dtype` and the size of a model's pictures (None: each its own)."""
    kind = device_kind(wanted)
    return Device(kind, device_name(kind), resolve_dtype(dtype, kind), auto_batch_size(size, kind))


def check_place(place: Place) -> None:
    """Raise PipelineError where a local output is not on this node, which may have joined the cluster lately."""
    if storage.is_local(place.root) and storage.stat(place.bound_file) is None:
        raise PipelineError(f"--output {place.root} is not there on the node {socket.gethostname()}: use s3://...")


def load_predictor(spec: JobSpec) -> Predictor:
    """The task's model on this process's device; raises PipelineError if it is not the one the driver has read."""
    bound, card = spec.bound, load_card(model_files.fetch(spec.model))
    if card.fingerprint != bound.model.fingerprint:
        raise PipelineError(f"the model {spec.model} on this node is not the one that the run was started with")
    # Other files of a task, such as a tokenizer, are bound by content too.
    here, there = spec.task.settings(card), json.loads(json.dumps(dict(bound.settings)))
    if changed := [name for name in there if json.loads(json.dumps(here.get(name))) != there[name]]:
        raise PipelineError(f"--{changed[0]} means something else on this node than where the run was started")
    dtype = resolve_dtype(bound.dtype, device_kind(spec.device))  # refused where it would be emulated
    return Predictor(
        spec.task, card, dtype=dtype, batch_size=bound.batch_size, compiled=bound.compile, device=spec.device
    )
