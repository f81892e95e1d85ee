"""Several requests under way, their answers in order."""

import threading
from collections.abc import Iterator

import pytest

from pipeline import storage


def test_answers_come_in_order_and_so_many_are_under_way_at_once() -> None:
    together = threading.Barrier(4)  # fewer than four at a time would wait here for ever

    def work(number: int) -> int:
        together.wait(60)
        return number * number

    assert list(storage.in_parallel(work, range(12), 4)) == [number * number for number in range(12)]


def test_no_more_is_taken_than_is_needed() -> None:
    taken: list[int] = []

    def things() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    answers = storage.in_parallel(str, things(), 4)
    assert [next(answers) for _ in range(3)] == ["0", "1", "2"]
    assert len(taken) == 6  # and three that are read ahead
    answers.close()
    assert len(taken) == 6


def test_an_error_is_raised_in_its_turn() -> None:
    answers = storage.in_parallel(lambda number: 1 // number, [1, 1, 0, 1], 4)
    assert [next(answers), next(answers)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(answers)


def test_who_takes_no_more_waits_for_nobody() -> None:
    silent, ended = threading.Event(), threading.Event()

    def work(number: int) -> int:
        if number:
            silent.wait(60)
            ended.set()
        return number

    answers = storage.in_parallel(work, range(8), 2)
    assert next(answers) == 0
    answers.close()
    assert not ended.is_set()
    silent.set()
