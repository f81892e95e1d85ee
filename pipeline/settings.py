"""What the user asked for, what the output is bound to, and what a worker needs to know."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from pipeline import cluster, storage
from pipeline.decode import MAX_PIXELS
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.source.naming import INPUT_FORMATS

if TYPE_CHECKING:
    from pipeline.decoder import DecodeSettings
    from pipeline.source.item import Wanted
    from pipeline.task import Task

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class RunConfig:
    """The flags that all tasks share. The metadata of a field is its line of `--help`."""

    input: tuple[str, ...] = field(metadata={"help": "files, folders, prefixes, globs or lists; local or s3://"})
    output: str = field(metadata={"help": "folder or s3:// prefix the result goes to", "metavar": "URI"})
    model: str = field(metadata={"help": "model folder, local or s3://, or a hub id", "metavar": "MODEL"})
    input_format: str = field(default="auto", metadata={"help": "what the input is", "choices": INPUT_FORMATS})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "arithmetic; auto: bfloat16 on GPUs, float32 on CPUs"}
    )
    batch_size: int = field(default=0, metadata={"help": "images per step of the model (0: auto)"})
    workers: str = field(
        default="auto", metadata={"help": "predictors (auto: all GPUs, else all cores)", "metavar": "N|MIN..MAX"}
    )
    gpus_per_worker: float = field(default=1.0, metadata={"help": "GPUs one predictor takes; may be a fraction"})
    span_size: int = field(default=0, metadata={"help": "images per output file (0: auto)"})
    image_column: str | None = field(
        default=None,
        metadata={
            "help": "Parquet column or tar member ending (such as mask.png) that is the image",
            "metavar": "NAME",
        },
    )
    limit: int | None = field(default=None, metadata={"help": "only the first N images; the output stays bound to it"})
    keep: tuple[str, ...] = field(
        default=(), metadata={"help": "tar members (such as cls) or Parquet columns to carry along"}
    )
    max_failed: float = field(default=0.01, metadata={"help": "share of failed images above which the run exits 3"})
    max_pixels: int = field(default=MAX_PIXELS, metadata={"help": "larger images are rows with status too_large"})
    retry_failed: bool = field(default=False, metadata={"help": "do the failed rows of a finished output again"})
    overwrite: bool = field(
        default=False, metadata={"help": "start over: delete the output first, if it is one of ours"}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "try a sample, predict time, files and bytes; write nothing"}
    )
    exact: bool = field(default=False, metadata={"help": "no shortcut that changes a pixel"})
    compile: bool | None = field(default=None, metadata={"help": "torch.compile the model (default: decided once)"})
    local: bool = field(default=False, metadata={"help": "no Ray, one process: for tests and debuggers"})
    ray_address: str | None = field(default=None, metadata={"help": "join this Ray cluster", "metavar": "HOST:PORT"})
    verbose: bool = field(default=False, metadata={"help": "show Ray's own messages and tracebacks"})

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        object.__setattr__(self, "keep", tuple(dict.fromkeys(self.keep)))
        if self.ray_address:
            cluster.check_form(self.ray_address, cluster.FLAG)
        if self.local and self.ray_address:
            raise ConfigError("--local uses no Ray: leave out either --local or --ray-address")
        for name, value in (("batch-size", self.batch_size), ("span-size", self.span_size)):
            if value < 0:
                raise ConfigError(f"--{name} {value}: give a number above 0, or leave it out for auto")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: give a number above 0")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"--max-failed {self.max_failed}: give a share between 0 and 1, such as 0.01")
        if self.max_pixels < 1:
            raise ConfigError(f"--max-pixels {self.max_pixels}: give a number above 0")
        if self.gpus_per_worker <= 0:
            raise ConfigError(f"--gpus-per-worker {self.gpus_per_worker}: give a number above 0, such as 1 or 0.5")
        self.worker_range()

    def worker_range(self) -> tuple[int, int] | None:
        """(min, max) predictors, None for auto."""
        if self.workers == "auto":
            return None
        low, dots, high = self.workers.partition("..")
        try:
            pair = int(low), int(high if dots else low)
        except ValueError:
            pair = 0, 0
        if not 0 < pair[0] <= pair[1]:
            raise ConfigError(f"--workers {self.workers}: give N or MIN..MAX, such as 4 or 2..8")
        return pair


@dataclass(frozen=True)
class JobSpec:
    """Everything a worker needs, small enough to travel with every Ray task; the model is found on the node."""

    output: str
    task: Task
    model: str
    fingerprint: str
    dtype: str
    compile: bool
    batch_size: int
    span_size: int
    decode: DecodeSettings
    wanted: Wanted
    schema: pa.Schema
    bound: dict[str, Any]


def bind(output: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """Create `_run.json`, or return the one that is there after checking that it wants the same.

    Keys of `wanted` that are None are not known yet (auto) and take what is bound. Raises ConfigError that names the
    first setting that differs, or says why the output cannot be written.
    """
    uri = storage.join(output, "_run.json")
    there = read_bound(output)
    if there is None:
        try:
            if storage.create(uri, json.dumps(wanted, indent=1, ensure_ascii=False).encode()):
                return wanted
        except (OSError, ObjectUnreadable) as error:
            raise ConfigError(f"--output {output}: cannot be written ({_cause(error)})") from error
        there = read_bound(output) or wanted
    compare(output, there, wanted)
    return there


def read_bound(output: str) -> dict[str, Any] | None:
    """`_run.json` of an output, None when there is none."""
    uri = storage.join(output, "_run.json")
    try:
        raw = storage.read(uri)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"--output {output}: cannot be read ({_cause(error)})") from error
    try:
        bound: dict[str, Any] = json.loads(raw)
    except ValueError as error:
        raise ConfigError(f"{uri} is not one of ours (not JSON): choose another --output") from error
    return bound


def _cause(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def compare(output: str, there: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise ConfigError for the first difference that would change answers; versions only warn elsewhere."""
    pairs = {**_flat(there), **{f"settings.{k}": v for k, v in there.get("settings", {}).items()}}
    for name, value in {**_flat(wanted), **{f"settings.{k}": v for k, v in wanted["settings"].items()}}.items():
        if value is not None and name in pairs and pairs[name] != value:
            raise ConfigError(
                f"--output {output} belongs to a run with {name.removeprefix('settings.')} = {_short(pairs[name])}, "
                f"this command has {_short(value)}: choose another --output, or --overwrite to start over"
            )


def _flat(bound: dict[str, Any]) -> dict[str, Any]:
    kept = {name: bound.get(name) for name in ("schema", "task", "dtype", "compile", "exact", "keep", "span_size")}
    # These count when they are None too: a limited output must not be taken for a whole one.
    found = {"limit": bound.get("limit") or "none", "image_column": bound.get("image_column") or "auto"}
    return {**kept, **found, "model": bound.get("model", {}).get("fingerprint")}


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 24 else text[:12] + "..."
