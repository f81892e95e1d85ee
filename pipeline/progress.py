"""What the user sees: a bar on a terminal or a line every ten seconds in a log, on standard error; then the result."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

INTERVAL_S = 10.0


def say(text: str) -> None:
    """One line for the user, beside the result (which is on standard output)."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def answer(text: str) -> None:
    """One line of the result, on standard output."""
    sys.stdout.write(text + "\n")


class Progress:
    """Counts images done; `expect` raises the total as planning goes on, None in it means not known yet."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.done = self.total = 0
        self.unknown = 0  # shards whose images nobody has counted
        self.began = self.last = time.monotonic()
        self.bar: Any = None
        self.row: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
            )
            self.bar = Bar(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
            self.bar.start()
            self.row = self.bar.add_task(self.task, total=None, rate="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.bar is not None:
            self.bar.stop()

    def expect(self, images: int | None) -> None:
        """A row of the dataset has been handed out."""
        if images is None:
            self.unknown += 1
        else:
            self.total += images

    def found(self, images: int) -> None:
        """A shard turned out to hold this many images."""
        self.unknown -= 1
        self.total += images

    def advance(self, images: int) -> None:
        """Images of a finished span."""
        self.done += images
        self.total = max(self.total, self.done)
        now = time.monotonic()
        rate = self.done / max(now - self.began, 1e-9)
        if self.bar is not None:
            total = None if self.unknown else self.total
            self.bar.update(self.row, completed=self.done, total=total, rate=f"{rate:,.0f} images/s")
        elif now - self.last >= INTERVAL_S:
            self.last = now
            say(self._line(rate))

    def _line(self, rate: float) -> str:
        if self.unknown:
            return (
                f"{self.task}: {self.done:,} images, {rate:,.1f}/s, {self.unknown:,} shards not read to their end yet"
            )
        left = (self.total - self.done) / max(rate, 1e-9)
        share = f"{self.done:,} of {self.total:,} images ({self.done / max(self.total, 1):.0%})"
        return f"{self.task}: {share}, {rate:,.1f}/s, {_duration(left)} left"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
