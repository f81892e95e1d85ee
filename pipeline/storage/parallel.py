"""The same request about many things, several of them under way at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

PARALLEL = 16  # requests in flight per process when many small objects are wanted

Thing = TypeVar("Thing")
Answer = TypeVar("Answer")


def in_parallel(work: Callable[[Thing], Answer], things: Iterable[Thing], at_once: int = PARALLEL) -> Iterator[Answer]:
    """The answers of `work` in the order of the things; up to `at_once` are worked on or wait to be taken.

    Things are taken from their iterator as they are needed, by the caller's thread. What `work` raises is raised in its
    turn. Who takes no more answers waits for none: an interrupted run is not held up by a silent server.
    """
    waiting: deque[Future[Answer]] = deque()
    pool = ThreadPoolExecutor(at_once)
    try:
        for thing in things:
            waiting.append(pool.submit(copy_context().run, work, thing))
            if len(waiting) == at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
