"""Everything that can be refused is refused here, before anything is written; then the output is bound."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import NamedTuple

import pyarrow as pa

from beit_core import CheckpointError, ModelCard
from pipeline import hub, model_files, storage
from pipeline.address import is_submitted
from pipeline.config import RunConfig
from pipeline.continued import warn_of_endings, warn_of_versions
from pipeline.copies.parts import owner_above
from pipeline.decode.decode import DecodeSettings
from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable
from pipeline.log import phase, warn
from pipeline.look import LOOK, look, wanted_of
from pipeline.output.bound import SCHEMA, Bound, BoundModel, SpanSize, bind, is_ours, read_bound
from pipeline.output.columns import schema_of
from pipeline.output.place import Place
from pipeline.plan.span_size import LEAST, LEAST_ON_ACCELERATORS, auto_span_size, images_in, warn_of_padding
from pipeline.report import ReportedModel
from pipeline.source.item import Wanted
from pipeline.source.kinds import Shard, Source
from pipeline.source.naming import Sources
from pipeline.spec import Device, JobSpec, Trial
from pipeline.task import AnyTask

VERSIONED = ("torch", "ray", "pyarrow", "pillow", "numpy")


@dataclass(frozen=True)
class Request:
    """A command that can work: its inputs exist, its model fits the task, its output is not somebody else's."""

    config: RunConfig
    task: AnyTask
    card: ModelCard
    place: Place
    sources: Sources
    first: list[Source]
    wanted: Wanted
    schema: pa.Schema

    @property
    def trial(self) -> Trial:
        """What has to be found out about a device."""
        config = self.config
        return Trial(
            task=self.task,
            model=model_files.name_for_workers(config.model, self.card.path),
            device=config.device,
            dtype=config.dtype,
            batch_size=config.batch_size,
            compile=bool(config.compile),
            gpus_per_worker=config.gpus_per_worker,
        )

    @property
    def model(self) -> ReportedModel:
        """What the run's report says of the model."""
        return ReportedModel(self.card.name, self.card.fingerprint, hub.commit_of(self.card.path))

    @property
    def is_small(self) -> bool:
        """Whether the first look has seen the whole source."""
        return len(self.first) <= LOOK


def checked(config: RunConfig, task: AnyTask) -> Request:
    """The command, if it can work; reads the model's card and one page of listing. Raises ConfigError if it cannot."""
    if is_submitted() and storage.is_relative(config.output):
        raise ConfigError(
            f"--output {config.output}: a submitted job runs in Ray's copy of the working folder, which is deleted; "
            "give s3://..., or an absolute path that all nodes share"
        )
    unfit = storage.unfit(storage.absolute(config.output), shared=not config.local)
    if unfit is not None:
        raise ConfigError(f"--output {config.output}: {unfit}")
    place = Place.of(config.output)
    try:
        with storage.quick():
            seen = look(config, place)
            _check_output(config, place)
            fresh = config.overwrite or not is_ours(place)
            wanted = wanted_of(config, seen, place, fresh=fresh)
            card = _card(config.model, task, fresh=fresh)
            _check_batch_size(config, task, card)
            schema = schema_of(task.columns(card), dict(wanted.types))
    except CredentialsLost as error:
        raise ConfigError(str(error)) from error
    sources = replace(seen.sources, wanted=wanted)
    return Request(config, task, card, place, sources, seen.first, wanted, schema)


def _check_batch_size(config: RunConfig, task: AnyTask, card: ModelCard) -> None:
    if config.batch_size > 1 and any(spec.size is None for spec in task.pixel_specs(card)):
        raise ConfigError(
            f"--batch-size {config.batch_size}: --model {card.name} keeps the aspect ratio of images, so it takes one "
            "at a time; leave the flag out"
        )


def _card(model: str, task: AnyTask, *, fresh: bool) -> ModelCard:
    """The model's card; for a fresh output the weights are loaded once too, as only that shows that they fit."""
    try:
        card = model_files.read(model)
        task.check(card)
        if fresh:
            with phase("loading the model, to see that it fits"):
                task.load(card)
    except CheckpointError as error:
        raise ConfigError(f"--model {model}: {error}") from error
    if card.pixels_assumed:
        warn(f"--model {model}: {_assumed(card)}")
    return card


def _assumed(card: ModelCard) -> str:
    """What is taken for granted of a model that says nothing of its pixels."""
    pixels = card.pixels
    size = " x ".join(map(str, pixels.size or (pixels.resize,)))
    mean, std = (" ".join(f"{value:g}" for value in values) for values in (pixels.mean, pixels.std))
    return f"no preprocessor_config.json, so {size} pixels, mean {mean} and std {std} are assumed"


def _check_output(config: RunConfig, place: Place) -> None:
    if config.overwrite and is_ours(place):
        _check_holds_no_other(place)
        return
    if read_bound(place) is not None:
        return
    if above := owner_above(place):
        raise ConfigError(f"--output {place.root} lies in {above}: choose a place of its own")
    if storage.is_local(place.root) and storage.stat(place.root) is not None:
        raise ConfigError(f"--output {place.root} is a file: give a folder")
    try:
        there = next((entry for entry in storage.listing(place.root) if not storage.is_half_written(entry.uri)), None)
    except FileNotFoundError as error:
        raise ConfigError(f"--output {place.root}: {error}") from error
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--output {place.root}: {storage.cause(error)}") from error
    if there is not None:
        advice = "nothing of it is deleted" if config.overwrite else "choose an empty place"
        raise ConfigError(f"--output {place.root} holds files that are not ours (such as {there.uri}): {advice}")


def _check_holds_no_other(place: Place) -> None:
    """Raise ConfigError where another output lies within this one, which is to be deleted."""
    own = place.bound_file.removeprefix(place.root)
    for entry in storage.listing(place.root):
        if entry.uri.endswith(own) and entry.uri != place.bound_file:
            other = entry.uri.removesuffix(own)
            raise ConfigError(f"--overwrite: another output, {other}, lies in {place.root}: move or delete it first")


def begin(request: Request, device: Callable[[], Device]) -> JobSpec:
    """Bind the output, which fixes once what `auto` means for it; with --overwrite what is there goes first."""
    place, device = request.place, cache(device)
    if request.config.overwrite and is_ours(place):
        device()  # what refuses the output's place does so before anything is deleted
        with storage.checking(f"--output {place.root}: cannot be written"):
            storage.check_put(place.success_file)
        _start_over(place)
    bound = bind(place, lambda existing: _wanted_bound(request, existing, device))
    return _continued(request, bound)


def propose(request: Request, device: Callable[[], Device]) -> JobSpec:
    """What `begin` would fix, or refuse, without writing anything; for `--dry-run`."""
    existing = None if request.config.overwrite else read_bound(request.place)
    wanted = _wanted_bound(request, existing, device)
    if existing is not None:
        wanted.check_same(existing, request.place)
    return _continued(request, existing or wanted)


def _continued(request: Request, bound: Bound) -> JobSpec:
    """What a worker needs for what the output is bound to; what is otherwise here is said."""
    warn_of_versions(bound.versions, versions())
    warn_of_endings(bound, request.wanted, request.first)
    return _spec(request, bound)


class _Resolved(NamedTuple):
    """What `auto` means for an output."""

    dtype: str
    compile: bool
    batch_size: int
    span_size: SpanSize
    cpu_class: str | None


def _by_device(request: Request, device: Device) -> _Resolved:
    """For a new output: from the device that will predict."""
    config = request.config
    span_size = SpanSize.fixed(config.span_size) if config.span_size else _auto_span_size(request, device)
    shards = all(isinstance(source, Shard) for source in request.first)
    warn_of_padding(config.batch_size, span_size.shard if shards else span_size.least)
    batch_size = config.batch_size or min(device.batch_size, span_size.least)
    compiled = bool(config.compile)  # auto: CPUs are faster without, no GPU has been measured (docs/performance.md)
    return _Resolved(device.dtype, compiled, batch_size, span_size, device.cpu_class)


def _as_existing(config: RunConfig, existing: Bound) -> _Resolved:
    """For one that is continued: as it was begun, where the flags do not say otherwise."""
    return _Resolved(
        dtype=existing.dtype if config.dtype == "auto" else config.dtype,
        compile=existing.compile if config.compile is None else config.compile,
        batch_size=config.batch_size or existing.batch_size,
        span_size=SpanSize.fixed(config.span_size) if config.span_size else existing.span_size,
        cpu_class=existing.cpu_class,
    )


def _wanted_bound(request: Request, existing: Bound | None, device: Callable[[], Device]) -> Bound:
    """What this command binds an output to; the device is asked only for a new one."""
    config, card = request.config, request.card
    columns = request.task.columns(card)
    resolved = _by_device(request, device()) if existing is None else _as_existing(config, existing)
    return Bound(
        schema=SCHEMA,
        task=request.task.name,
        settings=_settings(request.task, card, existing),
        model=BoundModel(card.name, card.head, card.fingerprint, card.semantics),
        exact=config.exact,
        keep=config.keep,
        image_column=config.image_column,
        versions=versions(),
        image_endings=tuple(sorted(request.wanted.endings)) if existing is None else existing.image_endings,
        labels=card.labels if "label_ids" in columns else (),
        columns={} if _lacks_columns(existing) else {name: str(kind) for name, kind in columns.items()},
        **resolved._asdict(),
    )


def _lacks_columns(existing: Bound | None) -> bool:
    """Whether an output was begun when its columns were not bound yet."""
    return existing is not None and not existing.columns


def _settings(task: AnyTask, card: ModelCard, existing: Bound | None) -> Mapping[str, object]:
    """The task's settings, but for flags at their defaults that it did not have yet when the output was begun."""
    settings = task.settings(card)
    if existing is None:
        return settings
    as_before = {flag.name for flag in fields(task) if getattr(task, flag.name) == flag.default}
    return {name: value for name, value in settings.items() if name in existing.settings or name not in as_before}


def versions() -> dict[str, str]:
    """The versions of the libraries that can change the last bits of an answer."""
    found: dict[str, str] = {}
    for name in VERSIONED:
        with suppress(importlib.metadata.PackageNotFoundError):  # --local needs no Ray
            found[name] = importlib.metadata.version(name)
    return found


def _start_over(place: Place) -> None:
    """Delete an output of ours; what makes it ours goes last, so that after a crash the same command does the rest."""
    with place.writing():
        storage.delete(place.success_file)
        for folder in (place.data, place.plan, place.runs):  # they may be links to another disk
            storage.delete_below(folder)
        storage.delete_below(place.root, last=place.bound_file)


def _auto_span_size(request: Request, device: Device) -> SpanSize:
    bytes_per_image = 0
    for spec in request.task.pixel_specs(request.card):
        height, width = spec.size or request.card.config.image_size
        bytes_per_image += 3 * height * width * (1 if spec.size else 2)
    least = LEAST if device.kind == "cpu" else LEAST_ON_ACCELERATORS
    shards = [source for source in request.first if isinstance(source, Shard)]
    return auto_span_size(bytes_per_image, least, images_in(shards, request.wanted) if request.is_small else None)


def _spec(request: Request, bound: Bound) -> JobSpec:
    config = request.config
    return JobSpec(
        place=request.place,
        task=request.task,
        model=model_files.name_for_workers(config.model, request.card.path),
        bound=replace(bound, labels=()),  # of which there may be thousands, and every Ray task takes this along
        device=config.device,
        decode=DecodeSettings(request.task.pixel_specs(request.card), config.max_pixels, config.exact),
        wanted=replace(request.wanted, endings=frozenset(bound.image_endings)),
        schema=request.schema,
        patience=config.patience,
        gpus_per_worker=config.gpus_per_worker,
    )
