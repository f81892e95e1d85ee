"""The report of a run: receipts added up as they come."""

from __future__ import annotations

import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.identity import identity
from pipeline.log import warn
from pipeline.metrics import Metrics
from pipeline.output.receipts import FailedRow, Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.source.passed import PassedBy
from pipeline.status import OK

SCHEMA = 1  # of the report; docs/run-report.md says what it holds
EXAMPLES = 5  # failed rows shown per kind of error
FED = 0.95  # busy share above which an accelerator is not waiting for images
POINTS = 240  # of the throughput curve


@dataclass(frozen=True)
class ReportedModel:
    """Which model a run had: what it is called, its content, and its commit where it is from the hub."""

    name: str
    fingerprint: str
    revision: str | None = None


class RunReport:
    """Adds up receipts as they come; `as_dict` is `runs/<run id>.json`."""

    def __init__(
        self, run: str, task: str, tags: Mapping[str, str] | None = None, model: ReportedModel | None = None
    ) -> None:
        self.run, self.task, self.tags, self.model = run, task, dict(tags or {}), model
        self.metrics = Metrics(task)
        self.started_at = time.time()
        self._started = self._ended = time.monotonic()  # clocks are set back, too
        self.facts: dict[str, SpanFacts] = {}
        self.images = 0
        self.statuses: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()  # seconds by step, over all workers
        self.first_labels: Counter[str] = Counter()  # images by their first label
        self.devices: set[str] = set()  # by name, of the predictors
        self.at_once: int | None = None  # least images of a batch for which a device had memory, if not for all
        self.workers: Counter[str] = Counter()  # images by worker
        self.passed = PassedBy()  # what the listing passed by
        self.unreadable: Counter[str] = Counter()  # photos in the shards read, by ending
        self.examples: dict[str, list[FailedRow]] = {}
        self.curve: list[tuple[float, int]] = [(0.0, 0)]
        self.first: Receipt | None = None  # and when it and the last one came
        self.first_came = self.last_came = 0.0
        self.is_saved = False  # with its audit

    def add(self, receipt: Receipt) -> None:
        """Count a span once, however often a retried Ray task reports it."""
        if receipt.facts.name in self.facts:
            return
        self.facts[receipt.facts.name] = receipt.facts
        if not receipt.images:
            return
        self.last_came = time.monotonic()
        if self.first is None:
            self.first, self.first_came = receipt, self.last_came
        self.images += receipt.images
        self.devices.add(receipt.device.name)
        self._note_memory(receipt.device.at_once)
        self.workers[receipt.device.worker] += receipt.images
        self.statuses.update(receipt.facts.statuses)
        self.steps.update(receipt.seconds)
        self.first_labels.update(receipt.first_labels)
        self.unreadable.update(receipt.reading.unreadable)
        self.metrics.receipt(receipt)
        for example in receipt.examples:
            shown = self.examples.setdefault(example.status, [])
            if len(shown) < EXAMPLES:
                shown.append(example)
        self.curve.append((round(time.monotonic() - self._started, 2), self.images))
        if len(self.curve) > 2 * POINTS:
            self.curve = self.curve[::2]  # an odd number: the last one stays

    def _note_memory(self, at_once: int | None) -> None:
        if at_once is None:
            return
        if self.at_once is None:
            warn(f"a device had too little memory for a batch, and computes it in parts: {at_once} images at once")
        self.at_once = min(self.at_once or at_once, at_once)

    def finish(self) -> None:
        """Stop the clock of the run."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """From the start to `finish`."""
        return self._ended - self._started

    @property
    def rate(self) -> float:
        """Images per second, the start of Ray and of models included."""
        return self.images / max(self.seconds, 1e-9)

    def busy(self, workers: int) -> float | None:
        """The share of the time from the first finished span to the last in which accelerators worked.

        None for CPUs, which decode too, and where there was no such time.
        """
        seconds = self.last_came - self.first_came
        if self.first is None or self.devices <= {"cpu"} or seconds <= 0 or not workers:
            return None
        return min(1.0, (self.steps["predict"] - self.first.seconds["predict"]) / seconds / workers)

    @property
    def errors(self) -> dict[str, int]:
        """Failed rows by status in the spans that this run wrote."""
        return {status: count for status, count in sorted(self.statuses.items()) if status != OK}

    def as_dict(self, planned: int | None, **more: object) -> dict[str, object]:
        """The report, with what only the run knows (mode, audit, exit code, ...); `planned` where it was counted."""
        images = {"done": self.images, "failed": sum(self.errors.values())}
        return {
            "schema": SCHEMA,
            "run": self.run,
            "task": self.task,
            "model": self.model and self.model.name,
            "model_fingerprint": self.model and self.model.fingerprint,
            "model_revision": self.model and self.model.revision,
            **identity(),
            "started": _iso(self.started_at),
            "finished": _iso(self.started_at + self.seconds),
            "seconds": round(self.seconds, 2),
            "images_per_second": round(self.rate, 2),
            "images": images if planned is None else {**images, "planned": planned},
            "tags": self.tags,
            "device": ", ".join(sorted(self.devices)) or None,
            "images_at_once": self.at_once,
            "images_by_worker": dict(self.workers),
            "errors": self.errors,
            "examples": [row._asdict() for shown in self.examples.values() for row in shown],
            "steps": {f"{step}_s": round(spent, 3) for step, spent in self.steps.items()},
            "first_labels": dict(self.first_labels.most_common()),
            "throughput": self.curve,
            "skipped": dict(self.passed.others),
            "unreadable": dict(self.passed.photos),
            "unreadable_in_shards": dict(self.unreadable),
            **more,
        }


def fed(busy: float, decoders: int) -> str:
    """What a user learns of accelerators that were busy for this share of the time, beside so many decoders."""
    said = f"the accelerators were busy {busy:.0%} of the time"
    if busy >= FED:
        return said
    more = max(1, math.ceil(decoders * (1 / max(busy, 0.01) - 1)))
    cores = "core" if more == 1 else "cores"
    return f"{said}: decoding held them up, {more:,} more {cores} would feed them"


def run_id() -> str:
    """Sorts by time, to the millisecond, and is unique enough for runs that start at once."""
    now = time.time()
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"{int(now * 1000) % 1000:03d}Z"
    return f"{moment}-{os.getpid():x}{secrets.token_hex(2)}"


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
