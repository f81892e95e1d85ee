"""Schedules that nobody thought of: every one ends with one row per image, an honest audit, and a calm run's bytes."""

import itertools
from dataclasses import replace

import pytest

from pipeline.log import answer
from pipeline.output.place import Place
from pipeline.plan import files
from pipeline.plan.files import ShardContent
from pipeline.plan.rows import UnreadShard
from tests.simulation.schedule import Outcome, simulate
from tests.simulation.store import SimulatedStore

QUICK, MANY = range(300), range(1000, 6000)


def played(seeds: range) -> list[Outcome]:
    """All of them; fails with the whole schedule of the first that broke a promise."""
    outcomes = []
    for seed in seeds:
        outcomes.append(simulate(seed))
        assert not outcomes[-1].violations, str(outcomes[-1])
    answer(
        f"{len(outcomes)} schedules, seeds {seeds[0]} to {seeds[-1]}: {sum(o.killed for o in outcomes)} runs killed, "
        f"{sum(o.requests for o in outcomes):,} requests, {sum(o.changes for o in outcomes)} changes, 0 violations"
    )
    return outcomes


def test_no_schedule_breaks_a_promise() -> None:
    outcomes = played(QUICK)
    assert sum(outcome.killed for outcome in outcomes) > 50
    assert sum(outcome.changes for outcome in outcomes) > 50


@pytest.mark.torture
@pytest.mark.timeout(1200)
def test_none_of_thousands_does() -> None:
    played(MANY)


# A tar was removed between the death of a run that had read it to its end and the next one.
@pytest.mark.parametrize("seed", [1673, 2948, 3455, 4100, 4449, 5623])
def test_a_schedule_that_broke_a_promise_once_does_not_again(seed: int) -> None:
    played(range(seed, seed + 1))


def forgetful(store: SimulatedStore) -> None:
    """It acknowledges every fifth data file and keeps nothing of it."""
    put, puts = store.put, itertools.count(1)

    def lose(uri: str, data: bytes) -> None:
        if "/data/" not in uri or next(puts) % 5:
            put(uri, data)

    store.put = lose  # type: ignore[method-assign]


def test_a_store_that_forgets_is_found_out() -> None:
    assert any(simulate(seed, forgetful).violations for seed in range(20))


def test_a_plan_entry_without_the_last_span_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    write = files.write_shard_entry

    def hasty(place: Place, row: UnreadShard, content: ShardContent) -> None:
        write(place, row, replace(content, spans=content.spans[:-1]))

    monkeypatch.setattr(files, "write_shard_entry", hasty)
    assert any(simulate(seed).violations for seed in range(10))
