"""Where the driver leaves planned rows and workers find them until they are done, and where workers can speak up."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pipeline import storage
from pipeline.errors import DEVICE_FAILURES
from pipeline.log import say
from pipeline.plan.rows import Row, UnreadShard, to_json
from pipeline.spec import JobSpec

LONE = 16  # rows of each worker that are handed out alone before the others go in groups
GROUP_ROWS, GROUP_IMAGES = 64, 512  # at most, unless one row has more
IMAGE_BYTES = 1 << 16  # of an image in a shard that nobody has read yet: a guess
BEGINNINGS = 20  # processes that may die over the same rows, one after the other, before the run is ended
END_S = 1.0  # until a thread that listens has ended
HEAR_S = 10.0  # between two lines of what workers say
AHEAD = 2000  # rows on the board at most
Group = list[tuple[int, str]]  # rows of the plan by their numbers, as JSON
DONE: Group = [(-1, "")]  # stands for a group whose rows are all done


@dataclass
class _Planned:
    """A group on the board, until all of its rows are done."""

    rows: Group
    open: int  # rows that are not done
    blocks: int = 0  # of reports that its workers have begun
    begun: int = 0  # workers that have begun it since one last gave a block


class RowBoard:
    """An actor. Group i of rows is the same whenever it is asked for, as long as any of its rows is not done.

    Ray runs a task again whose process died, from its first group on, and needs as many answers as before.
    """

    def __init__(self, workers: int = 1) -> None:
        self.most_failures = DEVICE_FAILURES * workers
        self.groups: list[_Planned | None] = []  # None where all rows are done
        self.group_of: dict[int, int] = {}
        self.total: int | None = None  # groups in all, once they are planned
        self.failed: set[str] = set()  # processes whose device has failed
        self.said = ""
        self.ended = False
        self.changed = asyncio.Condition()

    async def put(self, group: Group) -> None:
        """Add a group."""
        async with self.changed:
            self.group_of.update({number: len(self.groups) for number, _ in group})
            self.groups.append(_Planned(group, len(group)))
            self.changed.notify_all()

    async def complete(self, total: int) -> None:
        """There will be so many groups; some may come later than this, as Ray keeps calls in no order."""
        async with self.changed:
            self.total = total
            self.changed.notify_all()

    async def get(self, index: int) -> Group | None:
        """A group; waits until it is planned. None behind the last one."""
        async with self.changed:
            await self.changed.wait_for(lambda: index < len(self.groups) or len(self.groups) == self.total)
            if index >= len(self.groups):
                return None
            group = self.groups[index]
            return group.rows if group is not None else DONE

    async def done(self, numbers: list[int]) -> None:
        """These rows have reported and are not needed again."""
        for number in numbers:
            index = self.group_of.pop(number, None)
            group = self.groups[index] if index is not None else None
            if index is not None and group is not None:
                group.open -= 1
                if not group.open:
                    self.groups[index] = None

    async def begin(self, numbers: list[int]) -> tuple[int, bool]:
        """A worker begins a group of these rows, and with it a block of reports.

        How many blocks others may have given before it, and whether BEGINNINGS in a row have died of the group.
        """
        group = self._group_with(numbers)
        if group is None:
            return 0, False
        group.blocks += 1
        group.begun += 1
        return group.blocks - 1, group.begun > BEGINNINGS

    async def report(self, numbers: list[int]) -> None:
        """A worker has given a block of reports of a group of these rows, and begins the next one."""
        group = self._group_with(numbers)
        if group is not None:
            group.blocks += 1
            group.begun = 1

    def _group_with(self, numbers: list[int]) -> _Planned | None:
        """The group of these rows, None where all of them are done."""
        index = next((self.group_of[number] for number in numbers if number in self.group_of), None)
        return self.groups[index] if index is not None else None

    async def say(self, text: str) -> None:
        """A worker has something to tell the user; a later line takes the place of one that nobody has heard."""
        async with self.changed:
            self.said = text
            self.changed.notify_all()

    async def heard(self) -> str | None:
        """What a worker says; waits until one does. None once the run is over."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.said or self.ended)
            text, self.said = self.said, ""
            return text or None

    async def end(self) -> None:
        """The run is over: nobody is to wait here any more."""
        async with self.changed:
            self.ended = True
            self.changed.notify_all()

    async def may_start_again(self, process: str) -> bool:
        """The device of this process has failed, which several of its threads may tell: whether it may be replaced."""
        self.failed.add(process)
        return len(self.failed) <= self.most_failures


def grouped(rows: Iterator[Row], workers: int = 1) -> Iterator[Group]:
    """Rows with their numbers: the first ones alone, so that all workers begin at once; later small ones together."""
    lone = LONE * workers
    group: Group = []
    images = 0
    for number, row in enumerate(rows):
        group.append((number, to_json(row)))
        images += _images_in(row)
        if number < lone or len(group) >= GROUP_ROWS or images >= GROUP_IMAGES:
            yield group
            group, images = [], 0
    if group:
        yield group


def _images_in(row: Row) -> int:
    """About how many images a row has."""
    return row.shard.size // IMAGE_BYTES if isinstance(row, UnreadShard) else row.stop - row.start


class Planning:
    """The driver's thread that plans: puts rows on the board, and no more than `AHEAD` that are not done."""

    def __init__(self, board: Any, rows: Iterator[Row], workers: int) -> None:
        self.board, self.groups = board, grouped(rows, workers)
        self.error: BaseException | None = None
        self.open = 0
        self.ended = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, name="plan", daemon=True)
        self.thread.start()

    def done(self, numbers: list[int]) -> None:
        """These rows have reported."""
        if not numbers:
            return
        self.board.done.remote(numbers)
        with self.changed:
            self.open -= len(numbers)
            self.changed.notify_all()

    def end(self) -> None:
        """Plan no further; a listing that is silent just now is not waited for."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.thread.join(END_S)

    def _run(self) -> None:
        given = 0
        try:
            for group in self.groups:
                with self.changed:
                    self.changed.wait_for(lambda: self.open < AHEAD or self.ended)
                    self.open += len(group)
                if self.ended:  # Ray may be left by now, and a call would start it again
                    return
                self.board.put.remote(group)
                given += 1
        except BaseException as error:  # handed over to the thread that waits for receipts
            self.error = error
        if not self.ended:
            self.board.complete.remote(given)


class Hearing:
    """The driver's thread that shows what workers say.

    It is ended before Ray is left: a process that leaves while a thread waits for Ray may be ended by it, with code 1.
    """

    def __init__(self, ray: Any, board: Any) -> None:
        self.ray, self.board = ray, board
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="hear", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        with suppress(Exception):  # the board is gone: the run says itself how it went
            while (text := self.ray.get(self.board.heard.remote())) is not None:
                say(f"{text} of one worker")
                self.ended.wait(HEAR_S)

    def end(self) -> None:
        """Show no more, and wait for the thread."""
        self.ended.set()
        with suppress(Exception):  # as above
            self.ray.get(self.board.end.remote(), timeout=END_S)
        self.thread.join(END_S)


def wait_as_the_run(spec: JobSpec, board: Any) -> None:
    """Let this process wait for storage as the run does, and say so on the board."""
    storage.be_patient(spec.patience, lambda text: board.say.remote(text))
