"""How far a run is: a bar on a terminal, or a line every ten seconds in a log, on standard error."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

from pipeline.log import for_people, say
from pipeline.output.receipts import Receipt
from pipeline.plan.rows import Row, UnreadShard
from pipeline.source.kinds import Source

INTERVAL_S, BAR_S = 10.0, 0.5  # between two lines of a log, and two updates of a bar
STILL = 6  # intervals without news after which the same line is said again


class Progress:
    """Images done of those expected; the images of unread shards are estimated from the bytes read of them so far."""

    def __init__(self, task: str) -> None:
        self.task = task
        self.listed = 0  # sources
        self.done = self.known = 0
        self.planning = True  # there may be more images than those known
        self.unread = set[str]()  # shards whose images nobody has counted
        self.unread_bytes = self.read_bytes = self.read_images = 0  # of them, and what is read of that
        self.first: tuple[float, int] | None = None  # when the first span was finished, and its images
        self.said, self.same = "", 0
        self.bar: Any = None
        self.row: Any = None
        self.ended = threading.Event()

    def __enter__(self) -> Progress:
        if for_people():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            text, rest = TextColumn("{task.description}"), TextColumn("{task.fields[rest]}")
            self.bar = Bar(text, BarColumn(), MofNCompleteColumn(), rest, console=Console(stderr=True), transient=True)
            self.bar.start()
            self.row = self.bar.add_task(self.task, total=None, rest="")
        threading.Thread(target=self._tick, name="progress", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        if self.bar is not None:
            self.bar.stop()

    def listing(self, sources: Iterable[Source]) -> Iterator[Source]:
        """The sources, counted as they pass."""
        for source in sources:
            self.listed += 1
            yield source

    def expect(self, row: Row) -> None:
        """A row of the dataset has been handed out."""
        if not isinstance(row, UnreadShard):
            self.known += row.stop - row.start
        elif row.most is not None:  # --limit has had them counted
            self.known += row.most
        elif row.shard.uri not in self.unread:
            self.unread.add(row.shard.uri)
            self.unread_bytes += row.shard.size

    def advance(self, receipt: Receipt) -> None:
        """A span is finished."""
        facts, read = receipt.facts, receipt.reading.shard_bytes
        self.done += facts.images
        if facts.source in self.unread and read:
            self.read_bytes += read
            self.read_images += facts.images
        if self.first is None:
            self.first = time.monotonic(), facts.images
            self.show()

    def _tick(self) -> None:
        while not self.ended.wait(INTERVAL_S if self.bar is None else BAR_S):
            self.show()

    def show(self) -> None:
        """Update the bar, or say a line if there is news."""
        if self.bar is not None:
            text = f"{self.task}, {stage}" if (stage := self._stage()) else self.task
            known = self.total or None
            self.bar.update(self.row, description=text, completed=self.done, total=known, rest=self._rest())
            return
        line = f"{self.task}: {', '.join(filter(None, [self._share(), self._stage()]))}{self._rest()}"
        self.same = self.same + 1 if line == self.said else 0
        if self.same % STILL == 0:
            self.said = line
            counts = {"listed": self.listed, "done": self.done, "total": self.total, "planning": self.planning}
            say(line, "info", task=self.task, images_per_second=round(self.rate, 2), **counts)

    @property
    def rate(self) -> float:
        """Images per second since the first span: Ray and the models take their time to start."""
        if self.first is None:
            return 0.0
        return (self.done - self.first[1]) / max(time.monotonic() - self.first[0], 1e-9)

    @property
    def total(self) -> int:
        """Images expected by now; more may be planned yet."""
        per_byte = self.read_images / self.read_bytes if self.read_bytes else 0.0
        left = max(0, self.unread_bytes - self.read_bytes)
        return max(self.done, self.known + self.read_images + int(left * per_byte))

    def _stage(self) -> str:
        """What is waited for, or goes on beside."""
        if self.known or self.unread:
            return "" if self.done else "waiting for the first (models are being loaded)"
        return f"listing: {self.listed:,} so far"

    def _share(self) -> str:
        """What is done of what is planned; of what is not all planned nobody knows a percentage."""
        if not (self.known or self.unread):
            return ""
        counted = f"{self.total:,}" if self.total else f"{len(self.unread):,} shards"
        if self.planning:
            return f"{self.done:,} of at least {counted} images" if self.total else f"0 of at least {counted}"
        about = "about " if self.unread and self.total else ""
        share = f" ({self.done / self.total:.0%})" if self.done else ""
        return f"{self.done:,} of {about}{counted}{' images' if self.total else ''}{share}"

    def _rest(self) -> str:
        rate, left = self.rate, self.total - self.done
        if not rate:
            return ""
        least = "at least " if self.planning else ""
        return f", {rate:,.1f}/s" + (f", {least}{_duration(left / rate)} left" if left else "")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
