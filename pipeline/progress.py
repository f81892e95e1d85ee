"""What the user sees: a bar on a terminal or a line every ten seconds in a log, on standard error; then the result."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import Row, UnreadShard

INTERVAL_S = 10.0


def say(text: str) -> None:
    """One line for the user on standard error; standard output is for the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def answer(text: str) -> None:
    """One line of the result, on standard output."""
    sys.stdout.write(text + "\n")


def hush() -> None:
    """Nothing more on standard output: an interrupted run has no result, and there Ray reports actors that it ends."""
    sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


class Progress:
    """Images done of those expected; the images of unread shards are estimated from the bytes read of them so far."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.done = self.known = 0
        self.planning = True  # there may be more images than those known
        self.unread: dict[str, int] = {}  # bytes of each shard whose images nobody has counted
        self.read_bytes = self.read_images = 0
        self.last = time.monotonic()
        self.first: tuple[float, int] | None = None  # when the first span was finished, and its images
        self.bar: Any = None
        self.row: Any = None

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            text, rate = TextColumn("{task.description}"), TextColumn("{task.fields[rate]}")
            columns = (text, BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
            self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.row = self.bar.add_task(self.task, total=None, rate="")
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def expect(self, row: Row) -> None:
        """A row of the dataset has been handed out."""
        if not isinstance(row, UnreadShard):
            self.known += row.stop - row.start
        elif row.most is not None:  # --limit has had them counted
            self.known += row.most
        else:
            self.unread[row.shard.uri] = row.shard.size

    def advance(self, facts: SpanFacts) -> None:
        """A span is finished."""
        self.done += facts.images
        if facts.source in self.unread:
            self.read_bytes += max(0, facts.next_offset - facts.offset)
            self.read_images += facts.images
        now = time.monotonic()
        self.first = self.first or (now, facts.images)
        # Ray and the models start first; the remaining time follows from the rate since then.
        rate = (self.done - self.first[1]) / max(now - self.first[0], 1e-9)
        if self.bar is not None:
            self.bar.update(self.row, completed=self.done, total=self.total, rate=f"{rate:,.0f} images/s")
        elif now - self.last >= INTERVAL_S:
            self.last = now
            say(self._line(rate))

    @property
    def total(self) -> int:
        """Images expected by now; more may be planned yet."""
        per_byte = self.read_images / self.read_bytes if self.read_bytes else 0.0
        left = max(0, sum(self.unread.values()) - self.read_bytes)
        return max(self.done, self.known + self.read_images + int(left * per_byte))

    def _line(self, rate: float) -> str:
        about = "at least " if self.planning else "about " if self.unread else ""
        share = f"{self.done:,} of {about}{self.total:,} images ({self.done / max(self.total, 1):.0%})"
        left = f", {rate:,.1f}/s, {_duration((self.total - self.done) / rate)} left" if rate else ""
        return f"{self.task}: {share}{left}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
