"""What a finished span reports."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.span_file import SpanFacts
from pipeline.status import OK

EXAMPLES = 5  # failed rows of a status reported per span


class DeviceUsed(NamedTuple):
    """A predictor's device, its process, and how many images are computed at a time where no batch fits its memory."""

    name: str = ""
    worker: str = ""
    at_once: int | None = None


class FailedRow(NamedTuple):
    """A row shown as an example of its status."""

    uri: str
    status: str
    error: str


@dataclass(frozen=True)
class Reading:
    """What reading a span tells beside its facts: its part of the shard, in bytes of that (0 where nobody knows), and
    photos among the shard's members that cannot be read here, by ending.
    """

    shard_bytes: int = 0
    unreadable: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """What a finished span reports: `images` of it were done now; 0 if it was already finished."""

    facts: SpanFacts
    images: int
    examples: tuple[FailedRow, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    device: DeviceUsed = field(default_factory=DeviceUsed)
    first_labels: dict[str, int] = field(default_factory=dict)  # images by their first label, where the task has labels
    reading: Reading = field(default_factory=Reading)

    @staticmethod
    def of_finished(facts: SpanFacts, reading: Reading | None = None) -> Receipt:
        """For a span that was there already."""
        return Receipt(facts, images=0, reading=reading or Reading())

    def to_json(self) -> str:
        """As text, for a Ray dataset."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Receipt:
        """The inverse of `to_json`."""
        raw = json.loads(text)
        examples = tuple(FailedRow(*row) for row in raw["examples"])
        facts, device, reading = SpanFacts.of(raw["facts"]), DeviceUsed(*raw["device"]), Reading(**raw["reading"])
        return Receipt(facts, raw["images"], examples, raw["seconds"], device, raw["first_labels"], reading)


def examples(rows: pa.Table) -> tuple[FailedRow, ...]:
    """The first failed rows of every status."""
    rows = rows.select(list(FailedRow._fields))
    failed = rows.filter(pc.not_equal(rows["status"], OK))
    found: list[FailedRow] = []
    for status in sorted(set(failed["status"].to_pylist())):
        some = failed.filter(pc.equal(failed["status"], status)).slice(0, EXAMPLES)
        found += [FailedRow(**row) for row in some.to_pylist()]
    return tuple(found)


def first_labels(labels: pa.ChunkedArray, counted: np.ndarray) -> dict[str, int]:
    """How many of the rows that are `counted`, bool (rows,), have which first label; `labels` is a column of lists."""
    return dict(
        Counter(found[0] for found, counts in zip(labels.to_pylist(), counted, strict=True) if counts and found)
    )
