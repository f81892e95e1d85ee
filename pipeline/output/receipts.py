"""What a finished span reports."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.columns import OK
from pipeline.output.span_file import SpanFacts

EXAMPLES = 5  # failed rows of a status reported per span


class DeviceUsed(NamedTuple):
    """A predictor's device, and its process; `at_once` images fit into the device's memory (0: whole batches)."""

    name: str = ""
    worker: str = ""
    at_once: int = 0


@dataclass(frozen=True)
class Receipt:
    """What a finished span reports: `images` of it were done now; 0 if it was already finished."""

    facts: SpanFacts
    images: int
    examples: tuple[tuple[str, str, str], ...] = ()  # (uri, status, error)
    seconds: dict[str, float] = field(default_factory=dict)
    device: DeviceUsed = field(default_factory=DeviceUsed)
    first_labels: dict[str, int] = field(default_factory=dict)  # images by their first label, where the task has labels

    @staticmethod
    def of_finished(facts: SpanFacts) -> Receipt:
        """For a span that was there already."""
        return Receipt(facts, images=0)

    def to_json(self) -> str:
        """As text, for a Ray dataset."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Receipt:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        examples = tuple((uri, status, error) for uri, status, error in raw["examples"])
        facts, device = SpanFacts.of(raw["facts"]), DeviceUsed(*raw["device"])
        return Receipt(facts, raw["images"], examples, raw["seconds"], device, raw["first_labels"])


def examples(rows: pa.Table) -> tuple[tuple[str, str, str], ...]:
    """The first failed rows of every status."""
    rows = rows.select(["uri", "status", "error"])
    failed = rows.filter(pc.not_equal(rows["status"], OK))
    found: list[tuple[str, str, str]] = []
    for status in sorted(set(failed["status"].to_pylist())):
        some = failed.filter(pc.equal(failed["status"], status)).slice(0, EXAMPLES)
        found += zip(*(some[name].to_pylist() for name in ("uri", "status", "error")), strict=True)
    return tuple(found)


def first_labels(labels: pa.ChunkedArray, counted: np.ndarray) -> dict[str, int]:
    """How many of the rows that are `counted`, bool (rows,), have which first label; `labels` is a column of lists."""
    return dict(
        Counter(found[0] for found, counts in zip(labels.to_pylist(), counted, strict=True) if counts and found)
    )
