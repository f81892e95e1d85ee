"""The flags that all tasks share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from pipeline import address
from pipeline.decode.decode import MAX_PIXELS
from pipeline.errors import ConfigError
from pipeline.output.lease import IfRunning
from pipeline.source.naming import INPUT_FORMATS

MOST = 1 << 50  # of whatever a flag counts; larger numbers are for no clock and no index


@dataclass(frozen=True)
class RunConfig:
    """The flags that all tasks share. The metadata of a field is its line of `--help`."""

    input: tuple[str, ...] = field(
        metadata={"help": "files, folders, prefixes, globs or lists; local or s3://", "metavar": "URI"}
    )
    output: str = field(metadata={"help": "folder or s3:// prefix the result goes to", "metavar": "URI"})
    model: str = field(metadata={"help": "model folder, local or s3://, or a hub id[@REVISION]", "metavar": "MODEL"})
    input_format: str = field(default="auto", metadata={"help": "what the input is", "choices": INPUT_FORMATS})
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto",
        metadata={"help": "arithmetic (auto: bfloat16 where it is native, else float32)"},
    )
    device: Literal["auto", "gpu", "cpu"] = field(
        default="auto",
        metadata={"help": "where models run; gpu waits for one (auto: on GPUs if there are any)"},
    )
    batch_size: int = field(default=0, metadata={"help": "images per step of the model (0: auto)"})
    workers: str = field(
        default="auto", metadata={"help": "predictors (auto: all GPUs, else all cores)", "metavar": "N|MIN..MAX"}
    )
    gpus_per_worker: float = field(
        default=1.0, metadata={"help": "GPUs one predictor takes: of 0.5 two share one in turns, of 2 one stands idle"}
    )
    span_size: int = field(default=0, metadata={"help": "images per output file (0: auto)"})
    image_column: str | None = field(
        default=None,
        metadata={
            "help": "column of a Parquet or list, or ending in a tar such as mask.png, that is the image (auto)",
            "metavar": "NAME",
        },
    )
    limit: int | None = field(default=None, metadata={"help": "only N images; a later run may have more (all)"})
    keep: tuple[str, ...] = field(
        default=(), metadata={"help": "columns of Parquet and lists, or tar members such as cls, to carry along (none)"}
    )
    max_failed: float = field(default=0.01, metadata={"help": "share of failed images above which the run exits 3"})
    max_pixels: int = field(default=MAX_PIXELS, metadata={"help": "larger images are rows with status too_large"})
    unreadable: Literal["skip", "row"] = field(
        default="skip",
        metadata={"help": "photos of kinds that cannot be read here, such as HEIC: pass them by, or make them rows"},
    )
    retry_failed: bool = field(default=False, metadata={"help": "do the failed rows of a finished output again"})
    overwrite: bool = field(
        default=False, metadata={"help": "start over: delete the output first, if it is one of ours"}
    )
    dry_run: bool = field(
        default=False, metadata={"help": "try a sample, predict time, files and bytes; write nothing"}
    )
    exact: bool = field(default=False, metadata={"help": "no shortcut that changes a pixel"})
    compile: bool | None = field(default=None, metadata={"help": "torch.compile the model (off; decided once)"})
    patience: int = field(
        default=600,
        metadata={"help": "how long a throttling or unreachable storage is waited for", "metavar": "SECONDS"},
    )
    if_running: IfRunning = field(
        default="join",
        metadata={"help": "where another run works on the output: share the work, wait for its end, or exit with 0"},
    )
    local: bool = field(default=False, metadata={"help": "no Ray, one process: for tests and debuggers"})
    ray_address: str | None = field(
        default=None,
        metadata={"help": "cluster to join (RAY_ADDRESS, else Ray is started here)", "metavar": "HOST:PORT"},
    )
    tag: tuple[str, ...] = field(
        default=(), metadata={"help": "noted in the run's report (none)", "metavar": "KEY=VALUE"}
    )
    log_json: bool = field(default=False, metadata={"help": "one JSON object per line of the log"})
    verbose: bool = field(default=False, metadata={"help": "show Ray's own messages and tracebacks"})

    def __post_init__(self) -> None:
        """Raise ConfigError for values that cannot work."""
        object.__setattr__(self, "keep", tuple(dict.fromkeys(self.keep)))
        if self.ray_address:
            address.check_form(self.ray_address, address.FLAG)
        if self.local and self.ray_address:
            raise ConfigError("--local uses no Ray: leave out either --local or --ray-address")
        for name, given in (("input", self.input), ("output", (self.output,))):
            if "" in given:
                raise ConfigError(f'--{name} "": it is empty, as of a variable that is not set: give a path or a URI')
        self._check_numbers()
        self._check_gpus()
        self.worker_range()
        self._check_tags()

    @property
    def tags(self) -> dict[str, str]:
        """What `--tag` says, by key."""
        return {key: value for key, _, value in (given.partition("=") for given in self.tag)}

    def _check_tags(self) -> None:
        keys = [given.partition("=")[0] for given in self.tag]
        for given, key in zip(self.tag, keys, strict=True):
            if not key or "=" not in given:
                raise ConfigError(f"--tag {given}: give KEY=VALUE, such as night=2024-05-01")
            if keys.count(key) > 1:
                raise ConfigError(f"--tag {given}: {key} is given twice")

    def _check_numbers(self) -> None:
        for name, value in (("batch-size", self.batch_size), ("span-size", self.span_size)):
            if value < 0:
                raise ConfigError(f"--{name} {value}: give a number above 0, or leave it out for auto")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"--limit {self.limit}: give a number above 0")
        if not 0 <= self.max_failed <= 1:
            raise ConfigError(f"--max-failed {self.max_failed}: give a share between 0 and 1, such as 0.01")
        if self.max_pixels < 1:
            raise ConfigError(f"--max-pixels {self.max_pixels}: give a number above 0")
        if self.patience < 1:
            raise ConfigError(f"--patience {self.patience}: give a number of seconds above 0")
        for name in ("batch_size", "span_size", "limit", "max_pixels", "patience"):
            if (getattr(self, name) or 0) > MOST:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: give at most {MOST}")

    def _check_gpus(self) -> None:
        given = f"--gpus-per-worker {self.gpus_per_worker:g}"
        if not 0 < self.gpus_per_worker < math.inf:
            raise ConfigError(f"{given}: give a number above 0, such as 1 or 0.5")
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ConfigError(f"{given}: Ray gives out whole GPUs or a part of one; give 0.5, 1 or 2")
        if self.gpus_per_worker != 1 and (self.local or self.device == "cpu"):
            other = "--local uses one GPU at most" if self.local else "--device cpu uses none"
            raise ConfigError(f"{given}: {other}; leave out either of them")

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
