"""The model of a job on this node, and what `auto` means for it."""

from __future__ import annotations

import json
import math
import os
import socket
from collections.abc import Sequence

from beit_core import CheckpointError, ModelCard
from pipeline import model_files, storage
from pipeline.engine.device import (
    AGAIN,
    auto_batch_size,
    can_compile,
    cpu_class,
    device_name,
    free_memory,
    in_time,
    keep_to_share,
    resolve_dtype,
    woken,
)
from pipeline.engine.predictor import Predictor
from pipeline.errors import ConfigError, DeviceFailed, PipelineError, StorageError
from pipeline.spec import Device, JobSpec, Trial

GIB = 1 << 30


def device_here(trial: Trial) -> Device:
    """This process's device, and what `auto` means on it; raises ConfigError where it cannot do what is asked.

    On an accelerator a batch is tried, as no formula shows the memory that a model needs, or whether its kernels are
    there; everywhere where the model is to be compiled, as only that shows whether the compiler works.
    """
    kind = woken(trial.device)
    keep_to_share(kind, trial.gpus_per_worker)  # other workers are not there yet when a batch is tried
    dtype = resolve_dtype(trial.dtype, kind)
    if trial.compile and not can_compile(kind):
        needs = "C++ compiler (g++, clang++ or c++)" if kind == "cpu" else "Triton with a C compiler (gcc, clang or cc)"
        raise ConfigError(f"--compile: there is no {needs}; install it, or leave the flag out")
    card = model_files.read(trial.model)
    _check_memory(trial, card)
    batch_size = trial.batch_size or auto_batch_size(trial.task.pixel_specs(card)[0].size, kind, dtype)
    if batch_size > 1 and (trial.compile or kind != "cpu"):
        predictor = _predictor(trial, card, dtype, batch_size)
        fits = fitting(predictor)
        batch_size = trial.batch_size or fits
        del predictor
        free_memory(kind)
    return Device(kind, device_name(kind), dtype, batch_size, cpu_class() if kind == "cpu" else "")


def _check_memory(trial: Trial, card: ModelCard) -> None:
    """Raise ConfigError for a batch whose pixels alone, as float32, take more than this machine's memory.

    What a model needs beside them is not known, but where not even they fit, the system would kill every worker.
    """
    pixels = sum(3 * math.prod(spec.size) for spec in trial.task.pixel_specs(card) if spec.size is not None)
    needed, there = 4 * pixels * trial.batch_size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > there:
        takes = f"the pixels of one batch take {needed / GIB:,.0f} GiB, and this machine has {there / GIB:,.0f}"
        raise ConfigError(f"--batch-size {trial.batch_size}: {takes}: give less")


def device_there(trial: Trial, places: Sequence[str]) -> Device:
    """`device_here`, on a node whose environment is not the driver's, once it is known to reach these places.

    Raises ConfigError where it does not.
    """
    try:
        with storage.quick():
            for place in places:
                storage.check_access(place)
            return device_here(trial)
    except StorageError as error:
        raise ConfigError(
            f"on the node {socket.gethostname()}, where a worker would be: {error}; workers have the environment of "
            "`ray start` and their machine's role, not that of this command"
        ) from error


def fitting(predictor: Predictor) -> int:
    """Images that fit into the device's memory at once: the predictor's batch size, or a half, a quarter... of it.

    Raises ConfigError where the model fails, or not even one does.
    """
    if (reason := in_time(predictor.warm_up)) is not None:
        raise ConfigError(f"--model {predictor.card.name}: a batch cannot be computed here: {reason}")
    return predictor.at_once


def load_predictor(spec: JobSpec) -> Predictor:
    """The task's model on this process's device; raises PipelineError if it is not the one the driver has read.

    A GPU has computed a batch by then: else what loads and compiles kernels would look as if the device were busy, and
    a worker of Ray's would take rows while others could do them.
    """
    bound, card = spec.bound, model_files.read(spec.model)
    if card.fingerprint != bound.model.fingerprint:
        raise PipelineError(f"the model {spec.model} on this node is not the one that the run was started with")
    # Other files of a task, such as a tokenizer, are bound by content too.
    here, there = spec.task.settings(card), json.loads(json.dumps(dict(bound.settings)))
    if changed := [name for name in there if json.loads(json.dumps(here.get(name))) != there[name]]:
        raise PipelineError(f"--{changed[0]} means something else on this node than where the run was started")
    kind = woken(spec.device)
    if kind == "cpu" and spec.device_kind not in ("", kind):
        raise DeviceFailed(f"no GPU answers on {socket.gethostname()}: {AGAIN}")
    keep_to_share(kind, spec.gpus_per_worker)
    dtype = resolve_dtype(bound.dtype, kind)  # refused where it would be emulated
    predictor = _predictor(spec.trial, card, dtype, bound.batch_size)
    if kind != "cpu":
        in_time(predictor.warm_up)  # what fails there fails again for images, and becomes their reason
    return predictor


def _predictor(trial: Trial, card: ModelCard, dtype: str, batch_size: int) -> Predictor:
    """The `Predictor` that is tried; weights that are damaged on this node are said to be."""
    try:
        return Predictor(
            trial.task, card, dtype=dtype, batch_size=batch_size, compiled=trial.compile, device=trial.device
        )
    except CheckpointError as error:
        raise PipelineError(f"the model {card.name} cannot be loaded on {socket.gethostname()}: {error}") from error
