"""Schedules that nobody thought of: every one ends with one row per image, an honest audit, and a calm run's bytes."""

import itertools
from dataclasses import replace

import pytest

from pipeline import run
from pipeline.log import answer
from pipeline.output.place import Place
from pipeline.plan import entry_file
from pipeline.plan.entry_file import ShardContent
from pipeline.plan.rows import UnreadShard
from pipeline.storage import Entry
from tests.simulation.schedule import Outcome, Sabotage, simulate
from tests.simulation.store import SimulatedStore

LEASE = "/_lease.json"
# The first of each run in `make test`, the others in `make torture`. No lease is heeded in those that are free.
QUICK, QUICK_FREE, QUICK_FORGETTING, QUICK_ROUGH = range(200), range(200, 250), range(250, 300), range(300, 400)
MANY, MANY_FREE = range(1000, 4000), range(5500, 6000)
MANY_FORGETTING, MANY_FORGETTING_FREE = range(6000, 7000), range(7000, 7500)
MANY_ROUGH, MANY_ROUGH_FORGETTING = range(10_000, 13_000), range(13_000, 14_500)


def played(
    seeds: range, sabotage: Sabotage | None = None, *, forgets: bool = False, rough: bool = False
) -> list[Outcome]:
    """All of them; fails with the whole schedule of the first that broke a promise."""
    outcomes = []
    for seed in seeds:
        outcomes.append(simulate(seed, sabotage, forgets=forgets, rough=rough))
        assert not outcomes[-1].violations, str(outcomes[-1])
    answer(
        f"{len(outcomes)} schedules, seeds {seeds[0]} to {seeds[-1]}: {sum(o.killed for o in outcomes)} runs killed, "
        f"{sum(o.requests for o in outcomes):,} requests, {sum(o.changes for o in outcomes)} changes, 0 violations"
    )
    return outcomes


def test_no_schedule_breaks_a_promise() -> None:
    outcomes = played(QUICK)
    assert sum(outcome.killed for outcome in outcomes) > 25
    assert sum(outcome.changes for outcome in outcomes) > 25


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_none_of_thousands_does() -> None:
    played(MANY)


def free_lease(store: SimulatedStore) -> None:
    """The lease is free for whoever asks, always: all runs of a schedule believe to have it."""
    stat, create = store.stat, store.create

    def see(uri: str) -> Entry | None:
        return None if uri.endswith(LEASE) else stat(uri)

    def take(uri: str, data: bytes) -> bool:
        return uri.endswith(LEASE) or create(uri, data)

    store.stat, store.create = see, take  # type: ignore[method-assign]


def test_nothing_rests_on_the_lease() -> None:
    outcomes = played(QUICK_FREE, free_lease)
    assert not any(LEASE in line for outcome in outcomes for line in outcome.trace)
    assert sum(outcome.overlapped for outcome in outcomes) > 12


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_nothing_rests_on_the_lease_in_hundreds() -> None:
    played(MANY_FREE, free_lease)


def test_forgotten_rows_go_and_stay_away_and_all_others_stay() -> None:
    outcomes = played(QUICK_FORGETTING, forgets=True)
    assert sum(outcome.forgotten for outcome in outcomes) > 50
    assert sum(outcome.killed for outcome in outcomes) > 25


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_so_they_do_in_a_thousand_schedules_and_without_a_lease() -> None:
    played(MANY_FORGETTING, forgets=True)
    played(MANY_FORGETTING_FREE, free_lease, forgets=True)


def test_rough_sources_and_changing_flags_break_none_either() -> None:
    outcomes = played(QUICK_ROUGH, rough=True)
    assert sum(outcome.killed for outcome in outcomes) > 25
    told = [line for outcome in outcomes for line in outcome.trace]
    assert sum(line.endswith("is forbidden") for line in told) > 25


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_nor_do_they_in_thousands() -> None:
    played(MANY_ROUGH, rough=True)
    played(MANY_ROUGH_FORGETTING, forgets=True, rough=True)


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
    write = entry_file.write_shard_entry

    def hasty(place: Place, row: UnreadShard, content: ShardContent) -> None:
        write(place, row, replace(content, spans=content.spans[:-1]))

    monkeypatch.setattr(entry_file, "write_shard_entry", hasty)
    assert any(simulate(seed).violations for seed in range(10))


def test_a_run_that_leaves_rows_which_a_killed_forgetting_has_named_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(run, "drop", lambda *_: [])
    assert any(simulate(seed, forgets=True).violations for seed in (12, 53, 107, 134))
