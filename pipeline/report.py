"""The report of a run: receipts added up as they come."""

from __future__ import annotations

import os
import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass

from pipeline.output.columns import OK
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.source.passed import PassedBy

EXAMPLES = 5  # failed rows shown per kind of error
POINTS = 240  # of the throughput curve


@dataclass(frozen=True)
class FailedRow:
    """A row shown as an example of its status."""

    uri: str
    status: str
    error: str


class RunReport:
    """Adds up receipts as they come; `as_dict` is `runs/<run id>.json`."""

    def __init__(self, run: str, task: str) -> None:
        self.run, self.task = run, task
        self.began = self.ended = time.time()
        self.facts: dict[str, SpanFacts] = {}
        self.images = 0
        self.statuses: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()  # seconds by step, over all workers
        self.devices: set[str] = set()  # by name, of the predictors
        self.passed = PassedBy()  # what the listing passed by
        self.examples: dict[str, list[FailedRow]] = {}
        self.curve: list[tuple[float, int]] = [(0.0, 0)]

    def add(self, receipt: Receipt) -> None:
        """Count a span once, however often a retried Ray task reports it."""
        if receipt.facts.name in self.facts:
            return
        self.facts[receipt.facts.name] = receipt.facts
        if not receipt.images:
            return
        self.images += receipt.images
        self.devices.add(receipt.device)
        self.statuses.update(receipt.facts.statuses)
        self.steps.update(receipt.seconds)
        for example in receipt.examples:
            shown = self.examples.setdefault(example[1], [])
            if len(shown) < EXAMPLES:
                shown.append(FailedRow(*example))
        self.curve.append((round(time.time() - self.began, 2), self.images))
        if len(self.curve) > 2 * POINTS:
            self.curve = self.curve[::2] + self.curve[-1:]

    def finish(self) -> None:
        """Stop the clock of the run."""
        self.ended = time.time()

    @property
    def seconds(self) -> float:
        """From the start to `finish`."""
        return self.ended - self.began

    @property
    def rate(self) -> float:
        """Images per second, the start of Ray and of models included."""
        return self.images / max(self.seconds, 1e-9)

    @property
    def errors(self) -> dict[str, int]:
        """Failed rows by status in the spans that this run wrote."""
        return {status: count for status, count in sorted(self.statuses.items()) if status != OK}

    def as_dict(self, planned: int, **more: object) -> dict[str, object]:
        """The report, with what only the run knows (mode, audit, exit code, ...)."""
        return {
            "run": self.run,
            "task": self.task,
            "started": _iso(self.began),
            "finished": _iso(self.ended),
            "seconds": round(self.seconds, 2),
            "images_per_second": round(self.rate, 2),
            "images": {"done": self.images, "failed": sum(self.errors.values()), "planned": planned},
            "device": ", ".join(sorted(self.devices)) or None,
            "errors": self.errors,
            "examples": [asdict(row) for shown in self.examples.values() for row in shown],
            "steps": {f"{step}_s": round(spent, 3) for step, spent in self.steps.items()},
            "throughput": self.curve,
            "skipped": dict(self.passed.others),
            "unreadable": dict(self.passed.photos),
            **more,
        }


def run_id() -> str:
    """Sorts by time, to the millisecond, and is unique enough for runs that start at once."""
    now = time.time()
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"{int(now * 1000) % 1000:03d}Z"
    return f"{moment}-{os.getpid():x}{secrets.token_hex(2)}"


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
