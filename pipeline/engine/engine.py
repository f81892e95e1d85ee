"""What an engine is, and the one that works in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from pipeline.engine.steps import SpanWorker
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import Row
from pipeline.spec import JobSpec


class Engine(Protocol):
    """Where spans are worked on."""

    @property
    def mode(self) -> str:
        """How the report calls it."""

    @property
    def workers(self) -> int:
        """Predictors at most."""

    def resolve_dtype(self) -> str:
        """What `--dtype auto` means on a worker that will predict."""

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts as spans are finished, in any order."""

    def close(self) -> None:
        """Leave what was started."""


class InProcess:
    """No Ray: the same functions, one after another, for tests and debuggers."""

    mode = "local"
    workers = 1

    def resolve_dtype(self) -> str:
        """What `--dtype auto` means here."""
        from pipeline.engine.predictor import auto_dtype  # here: a run that finds nothing to do needs no torch

        return auto_dtype()

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        """Receipts in the order of the rows."""
        worker = SpanWorker(spec)
        try:
            for row in rows:
                yield from worker(row)
        finally:
            worker.close()

    def close(self) -> None:
        """Nothing to leave."""
