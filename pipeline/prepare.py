"""Everything that can be refused is refused here, before anything is written; then the output is bound."""

from __future__ import annotations

import importlib.metadata
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline import columns, models, settings, storage
from pipeline.decode import extensions
from pipeline.decoder import DecodeSettings
from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable
from pipeline.output import writing
from pipeline.progress import say
from pipeline.settings import JobSpec, RunConfig
from pipeline.source.format import FORMATS
from pipeline.source.item import Wanted
from pipeline.source.naming import LISTED, MAGIC, LooseImage, Shard, Source, Sources
from pipeline.spans import TYPICAL_IMAGE, auto_span_size
from pipeline.task import Task

if TYPE_CHECKING:
    from beit_core import ModelCard

LOOK = 1000  # sources looked at before anything starts: the first page of a listing
VERSIONED = ("torch", "ray", "pyarrow", "pillow", "numpy")


@dataclass(frozen=True)
class Request:
    """A command that can work: its inputs exist, its model fits the task, its output is not somebody else's."""

    config: RunConfig
    task: Task
    card: ModelCard
    output: str
    sources: Sources
    first: list[Source]
    wanted: Wanted
    schema: pa.Schema

    @property
    def is_small(self) -> bool:
        """Whether the first look has seen the whole source."""
        return len(self.first) < LOOK


def check(config: RunConfig, task: Task) -> Request:
    """Raise ConfigError for whatever makes the command hopeless; reads the model's card and one page of listing."""
    storage.be_quick(True)
    try:
        output = storage.absolute(config.output).rstrip("/")
        sources = Sources(config.input, config.input_format, extensions())
        first = _first_look(sources, output)
        _check_output(config, output)
        wanted = _wanted_of_shards(config, sources, first)
        _check_listed(first)
        card = _card(config.model, task, fresh=settings.read_bound(output) is None)
        schema = columns.schema_of(task.columns(card), dict(wanted.types))
    except CredentialsLost as error:
        raise ConfigError(str(error)) from error
    finally:
        storage.be_quick(False)
    return Request(config, task, card, output, sources, first, wanted, schema)


def _card(model: str, task: Task, *, fresh: bool) -> ModelCard:
    """The model's card; for a fresh output the weights are loaded once too, as only that shows that they fit."""
    from beit_core import CheckpointError, load_card

    try:
        card = load_card(models.fetch(model))
        task.check(card)
        if fresh:
            task.load(card)
    except CheckpointError as error:
        raise ConfigError(f"--model {model}: {error}") from error
    return card


def _first_look(sources: Sources, output: str) -> list[Source]:
    for given in sources.inputs:
        root = storage.absolute(given).rstrip("/") + "/"
        if (output + "/").startswith(root) and not MAGIC.search(root):
            raise ConfigError(f"--output {output} lies below --input {given}: the next run would read its own result")
    listing = sources.listing()
    first = list(itertools.islice(listing, LOOK))
    if not first:
        skipped = ", ".join(f"{count} {ending}" for ending, count in listing.skipped.most_common(5))
        seen = f"only other files ({skipped})" if skipped else "nothing there, or a list of nothing"
        raise ConfigError(f"--input {' '.join(sources.inputs)}: no image and no shard found, {seen}")
    return first


def _wanted_of_shards(config: RunConfig, sources: Sources, first: list[Source]) -> Wanted:
    """What is taken from every shard; what the first one lacks of it raises ConfigError."""
    endings = frozenset(ending.removeprefix(".") for ending in sources.extensions)
    wanted = Wanted(endings, config.image_column, tuple(config.keep))
    shard = next((source for source in first if isinstance(source, Shard)), None)
    if shard is None:
        _check_no_columns(config)
        return wanted
    return replace(wanted, types=FORMATS[shard.format].check(shard.entry, wanted))


def _check_no_columns(config: RunConfig) -> None:
    if config.keep or config.image_column:
        flag = f"--keep {' '.join(config.keep)}" if config.keep else f"--image-column {config.image_column}"
        raise ConfigError(
            f"{flag}: loose images carry no columns; tars and Parquet do (a list with columns becomes a Parquet with a "
            "column of URIs)"
        )


def _check_listed(first: list[Source]) -> None:
    """Nothing has been asked of remote images that a list names; that there are no keys for them shows at the first."""
    for entry in [source.entry for source in first if source.entry.version == LISTED][:1]:
        try:
            storage.check_access(entry.uri)
        except CredentialsLost as error:
            raise ConfigError(f"--input: {entry.uri}, which a list names, cannot be read: {error}") from error


def _check_output(config: RunConfig, output: str) -> None:
    if settings.read_bound(output) is not None:
        return
    if storage.is_local(output) and storage.stat(output) is not None:
        raise ConfigError(f"--output {output} is a file: give a folder")
    try:
        there = next((entry for entry in storage.listing(output) if not storage.is_half_written(entry.uri)), None)
    except FileNotFoundError as error:
        raise ConfigError(f"--output {output}: {error}") from error
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--output {output}: {storage.reason(error)}") from error
    if there is not None:
        advice = "nothing of it is deleted" if config.overwrite else "choose an empty place"
        raise ConfigError(f"--output {output} holds files that are not ours (such as {there.uri}): {advice}")


def bind(request: Request, resolve_dtype: Callable[[], str]) -> JobSpec:
    """Fix what `auto` means for this output, once, and create or check `_run.json`."""
    if request.config.overwrite and settings.read_bound(request.output) is not None:
        _start_over(request.output)
    wanted = _wanted(request, resolve_dtype)
    bound = settings.bind(request.output, wanted)
    _warn_of_versions(bound, wanted)
    return _spec(request, bound)


def propose(request: Request, resolve_dtype: Callable[[], str]) -> JobSpec:
    """What `bind` would fix, or refuse, without writing anything; for `--dry-run`."""
    wanted = _wanted(request, resolve_dtype)
    there = settings.read_bound(request.output) if not request.config.overwrite else None
    if there:
        settings.compare(request.output, there, wanted)
    return _spec(request, there or wanted)


def _wanted(request: Request, resolve_dtype: Callable[[], str]) -> dict[str, Any]:
    """The content of `_run.json`; None where an existing one decides."""
    config, card = request.config, request.card
    fresh = config.overwrite or settings.read_bound(request.output) is None
    dtype = config.dtype if config.dtype != "auto" else None
    return {
        "schema": settings.SCHEMA_VERSION,
        "task": request.task.name,
        "settings": request.task.settings(card),
        "model": {"name": card.name, "head": card.head, "fingerprint": card.fingerprint, "semantics": card.semantics},
        "dtype": dtype or (resolve_dtype() if fresh else None),
        "compile": bool(config.compile) if fresh else config.compile,
        "exact": config.exact,
        "keep": list(config.keep),
        "image_column": config.image_column,
        "limit": config.limit,
        "span_size": config.span_size or (_auto_span_size(request) if fresh else None),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONED},
    }


def _start_over(output: str) -> None:
    """Delete an output of ours; what makes it ours goes last, so that after a crash the same command does the rest."""
    with writing(output):
        storage.delete(storage.join(output, "_SUCCESS"))
        for folder in ("data", "plan", "runs"):
            storage.delete_below(storage.join(output, folder))
        storage.delete_below(output)


def _auto_span_size(request: Request) -> int:
    views = request.task.views(request.card)
    sides = [spec.size or request.card.config.image_size for spec in views]
    bytes_per_image = sum(
        3 * height * width * (1 if spec.size else 2) for spec, (height, width) in zip(views, sides, strict=True)
    )
    loose = sum(isinstance(source, LooseImage) for source in request.first)
    packed = sum(source.entry.size for source in request.first if isinstance(source, Shard)) // TYPICAL_IMAGE
    return auto_span_size(bytes_per_image, loose + packed if request.is_small else None)


def _spec(request: Request, bound: dict[str, Any]) -> JobSpec:
    config = request.config
    return JobSpec(
        output=request.output,
        task=request.task,
        model=models.everywhere(config.model),
        fingerprint=request.card.fingerprint,
        dtype=bound["dtype"],
        compile=bound["compile"],
        batch_size=config.batch_size,
        span_size=bound["span_size"],
        decode=DecodeSettings(request.task.views(request.card), config.max_pixels, config.exact),
        wanted=request.wanted,
        schema=request.schema,
        bound=bound,
    )


def _warn_of_versions(bound: dict[str, Any], wanted: dict[str, Any]) -> None:
    then, now = bound.get("versions", {}), wanted["versions"]
    changed = [f"{name} {then[name]} -> {now[name]}" for name in now if name in then and then[name] != now[name]]
    if changed:
        say(f"warning: the output was begun with other versions ({', '.join(changed)}); last bits may differ")
