"""Rows go to workers in groups: none is lost, the first ones go alone, and no group is much work."""

import asyncio
import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.engine.board import (
    BEGINNINGS,
    DONE,
    GROUP_IMAGES,
    GROUP_ROWS,
    IMAGE_BYTES,
    LONE,
    Group,
    Planning,
    RowBoard,
    grouped,
)
from pipeline.plan.rows import LooseSpan, Row, ShardRef, UnreadShard, to_json

ROWS = 1000
GROUPS: list[Group] = [[(0, "a")], [(1, "b"), (2, "c")]]


def loose(images: int) -> Row:
    return LooseSpan("name", "version", "part", 0, images)


def shard(size: int) -> Row:
    return UnreadShard(ShardRef("s3://bucket/a.tar", size, "version", "tar", "name"))


@pytest.mark.parametrize(
    ("row", "together"),
    [
        (loose(1), GROUP_ROWS),
        (loose(100), -(-GROUP_IMAGES // 100)),
        (loose(GROUP_IMAGES), 1),
        (shard(0), GROUP_ROWS),
        (shard(128 * IMAGE_BYTES), GROUP_IMAGES // 128),
        (shard(1 << 30), 1),
    ],
)
@pytest.mark.parametrize("workers", [1, 10])
def test_small_rows_go_together_behind_the_first_ones(row: Row, together: int, workers: int) -> None:
    groups = list(grouped(iter([row] * ROWS), workers))
    assert [pair for group in groups for pair in group] == [(number, to_json(row)) for number in range(ROWS)]
    lone = LONE * workers
    assert {len(group) for group in groups[:lone]} == {1}
    assert {len(group) for group in groups[lone:-1]} == {together}


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_no_group_is_missed_where_the_end_overtakes_it(order: tuple[int, ...]) -> None:
    async def work() -> list[Group]:
        board, found = RowBoard(), list[Group]()

        async def pull() -> None:
            while (group := await board.get(len(found))) is not None:
                found.append(group)

        pulling = asyncio.create_task(pull())
        for number in order:
            await (board.put(GROUPS[number]) if number < len(GROUPS) else board.complete(len(GROUPS)))
            await asyncio.sleep(0)
        await asyncio.wait_for(pulling, 10)
        return found

    assert sorted(asyncio.run(work())) == GROUPS


def test_a_group_is_the_same_until_all_of_its_rows_are_done() -> None:
    async def work() -> list[Group | None]:
        board = RowBoard()
        await board.put(GROUPS[1])
        await board.complete(1)
        await board.done([1])
        before = await board.get(0)
        await board.done([2, 2])
        return [before, await board.get(0), await board.get(1)]

    assert asyncio.run(work()) == [GROUPS[1], DONE, None]


def test_who_begins_a_group_again_is_told_how_many_blocks_it_may_have_given() -> None:
    async def work() -> list[int]:
        board = RowBoard()
        await board.put(GROUPS[1])
        before = [(await board.begin([1, 2]))[0]]
        await board.report([1, 2])
        before.append((await board.begin([1, 2]))[0])
        await board.done([1])
        before.append((await board.begin([1, 2]))[0])
        await board.done([2])
        before.append((await board.begin([1, 2]))[0])
        return before

    assert asyncio.run(work()) == [0, 2, 3, 0]


def test_rows_that_nobody_survives_are_given_up_but_not_those_that_go_on() -> None:
    async def work() -> list[tuple[int, bool]]:
        board = RowBoard()
        await board.put(GROUPS[1])
        for _ in range(BEGINNINGS - 1):
            await board.begin([1, 2])
        await board.report([1, 2])
        return [await board.begin([1, 2]) for _ in range(BEGINNINGS)]

    assert asyncio.run(work()) == [(BEGINNINGS + number, number == BEGINNINGS - 1) for number in range(BEGINNINGS)]


@pytest.mark.parametrize("workers", [1, 4])
def test_processes_whose_device_fails_are_replaced_so_often_for_each_worker(workers: int) -> None:
    async def work() -> list[bool]:
        board = RowBoard(workers)
        processes = [f"process {number}" for number in range(3 * workers + 1)]
        return [await board.may_start_again(process) for process in processes for _ in range(2)]  # of two threads

    assert asyncio.run(work()) == [True] * 6 * workers + [False] * 2


class Calls:
    """Stands where Ray has the handle of a board: notes what is called."""

    def __init__(self) -> None:
        self.made: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        class Method:
            @staticmethod
            def remote(*given: Any) -> None:
                self.made.append((name, *given))  # type: ignore[arg-type]

        return Method


def endless() -> Iterator[Row]:
    for number in itertools.count():
        yield loose(number)


def test_a_plan_that_is_ended_puts_nothing_more_on_the_board() -> None:
    calls = Calls()
    planning = Planning(calls, endless(), workers=1)
    planning.end()
    assert not planning.thread.is_alive()
    made = len(calls.made)
    planning.done([0])
    threading.Event().wait(0.05)
    assert [name for name, *_ in calls.made[made:]] == ["done"]
    assert "complete" not in [name for name, *_ in calls.made]
