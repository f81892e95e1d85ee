"""What came out: a receipt per span, and the bill of the run."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.columns import OK
from pipeline.output import SpanFacts

EXAMPLES = 5  # failed rows shown per kind of error
POINTS = 240  # of the throughput curve


@dataclass(frozen=True)
class Receipt:
    """What a finished span reports: `images` of it were done anew; 0 of one that was found finished on the way."""

    facts: SpanFacts
    images: int
    examples: tuple[tuple[str, str, str], ...] = ()  # (uri, status, error)
    seconds: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of_finished(facts: SpanFacts) -> Receipt:
        """For a span that was there already."""
        return Receipt(facts, images=0)

    @staticmethod
    def of_written(facts: SpanFacts, rows: pa.Table, seconds: dict[str, float], images: int) -> Receipt:
        """For a span just written, with its first failed rows."""
        failed = rows.filter(pc.not_equal(rows["status"], OK)).slice(0, EXAMPLES)
        columns = [failed[name].to_pylist() for name in ("uri", "status", "error")]
        return Receipt(facts, images, tuple(zip(*columns, strict=True)), seconds)

    def to_json(self) -> str:
        """For the way through a Ray dataset."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Receipt:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        examples = tuple((uri, status, error) for uri, status, error in raw["examples"])
        return Receipt(SpanFacts(**raw["facts"]), raw["images"], examples, raw["seconds"])


class RunReport:
    """Adds up receipts as they come; `as_dict` is `runs/<run id>.json`."""

    def __init__(self, run: str, task: str) -> None:
        self.run, self.task = run, task
        self.began = time.time()
        self.facts: dict[str, SpanFacts] = {}
        self.images = 0
        self.statuses: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()  # files that the listing passed by, by their ending
        self.examples: dict[str, list[dict[str, str]]] = {}
        self.curve: list[tuple[float, int]] = [(0.0, 0)]

    def add(self, receipt: Receipt) -> None:
        """Count a span once, however often a retried Ray task reports it."""
        if receipt.facts.name in self.facts:
            return
        self.facts[receipt.facts.name] = receipt.facts
        if not receipt.images:
            return
        self.images += receipt.images
        self.statuses.update(receipt.facts.statuses)
        self.seconds.update(receipt.seconds)
        for uri, status, error in receipt.examples:
            shown = self.examples.setdefault(status, [])
            if len(shown) < EXAMPLES:
                shown.append({"uri": uri, "status": status, "error": error})
        self.curve.append((round(time.time() - self.began, 2), self.images))
        if len(self.curve) > 2 * POINTS:
            self.curve = self.curve[::2] + self.curve[-1:]

    @property
    def failed(self) -> int:
        """Failed rows in the spans that this run wrote."""
        return sum(count for status, count in self.statuses.items() if status != OK)

    def as_dict(self, **more: Any) -> dict[str, Any]:
        """The report, with what only the run knows (mode, audit, exit code, ...)."""
        now = time.time()
        return {
            "run": self.run,
            "task": self.task,
            "started": _iso(self.began),
            "finished": _iso(now),
            "seconds": round(now - self.began, 2),
            "images_per_second": round(self.images / max(now - self.began, 1e-9), 2),
            "images": {"done": self.images, "failed": self.failed},
            "errors": {status: count for status, count in sorted(self.statuses.items()) if status != OK},
            "examples": [example for shown in self.examples.values() for example in shown],
            "steps": {f"{step}_s": round(spent, 3) for step, spent in self.seconds.items()},
            "throughput": self.curve,
            **more,
        }


def run_id() -> str:
    """Sorts by time, to the millisecond, and is unique enough for runs that start at once."""
    now = time.time()
    moment = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now)) + f"{int(now * 1000) % 1000:03d}Z"
    return f"{moment}-{os.getpid():x}{secrets.token_hex(2)}"


def _iso(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
