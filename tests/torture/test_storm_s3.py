"""Runs between S3 and S3: their drivers and workers killed while S3 keeps an answer back, or the storage failing."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultProxy, Rule
from tests.flow import make_tar, run_here
from tests.helpers import rows, run_job
from tests.proxied import named, s3_client
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, SPAN, compare, kill, kill_all, start, wait_for_the_end_of, wait_until, workers
from tests.torture.s3 import AFTER, BEFORE, POLL_S, check_fetched, die, due, fetched, keep_back, put, settle
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
INPUT = ["--input", "s3://inb/storm/"]
TRANSIENT = [
    Rule("503", "/0003.png", "GET", times=8), Rule("500", "/0005.png", "GET", times=3),
    Rule("rst", "/0007.png", "GET", times=2), Rule("stall", "/0009.png", "GET", times=1),
    Rule("midrst", "/0011.png", "GET", times=2, after=20), Rule("trunc", "/0013.png", "GET", times=2, after=20),
    Rule("midrst", "/t03.tar", "GET", times=3, after=9000), Rule("trunc", "/t05.tar", "GET", times=2, after=7),
    Rule("slow", "/t07.tar", "GET", times=1, bps=9000), Rule("500", "/t09.tar", "GET", times=2),
    Rule("503", "/data/", "PUT", times=8), Rule("rst", "/data/", "PUT", times=2),
    Rule("lost", "/data/", "PUT", times=2), Rule("stall", "/data/", "PUT", times=1),
    Rule("mute", "/data/", "PUT", times=1), Rule("lost", "/plan/", "PUT", times=3),
    Rule("503", "/plan/", "PUT", times=3), Rule("lost", "/runs/", "PUT", times=1),
    Rule("503", "_SUCCESS", "PUT", times=1),
]  # fmt: skip
PERMANENT = [Rule("403", "/0015.png", "GET"), Rule("404", "/0017.png", "GET")]


@pytest.fixture(scope="module")
def source(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """24 tars of 20 images, and 40 loose ones, by key."""
    folder, members = tmp_path_factory.mktemp("storm"), named(480)
    for number in range(24):
        make_tar(folder / f"t{number:02d}.tar", members[20 * number : 20 * number + 20])
    for name, data in named(40):
        (folder / name).write_bytes(data)
    return put(weed, folder, "inb/storm")


@pytest.fixture(scope="module")
def undisturbed(weed: Weed, source: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch, s3_client(weed.env, patch):
        assert len(source) == 64
        assert run_here("s3://inb/storm/", output, **SPAN) == 0
    return output


def points(count: int) -> list[tuple[str, str, int]]:
    """Drawn by chance: a third while the run is still starting, the others at one of its next 20 files."""
    chance = random.Random(11)
    drawn = []
    for _ in range(count):
        kind, number = chance.choice((BEFORE, AFTER)), chance.randrange(1, 20)
        early = drawn and chance.random() < 1 / 3
        drawn.append((kind, "GET _run.json", 1) if early else (kind, "PUT /data/", number))
    return drawn


def test_seven_kills_of_the_driver_one_after_another(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], undisturbed: Path,
    tally: Tally,
) -> None:  # fmt: skip
    drawn, left = points(7), due(source, "outb/storm", fs)
    command = [*INPUT, "--output", "s3://outb/storm", *FLAGS, "--local"]
    for kind, asked, number in drawn:
        doomed.reset()
        die(doomed, kind, asked, number, *command, env=weed.env)
        assert fetched(doomed).keys() <= left.keys()
        left = due(source, "outb/storm", fs)
    assert left
    proxied.reset()
    assert run_here("s3://inb/storm/", "s3://outb/storm", **SPAN) == 0
    check_fetched(proxied, left)
    compare(tally, "driver killed (--local, S3)", len(drawn), "outb/storm", undisturbed, fs)


def test_kills_of_workers_and_then_of_their_driver(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], undisturbed: Path,
    tally: Tally,
) -> None:  # fmt: skip
    """The run goes on without its workers; without its driver all of Ray ends, and the same command goes on."""
    command, killed = [*INPUT, "--output", "s3://outb/ray", *FLAGS, "--workers", 2], set[int]()
    doomed.reset()
    keep_back(doomed, AFTER, "PUT /data/", 8)
    job = start(*command, env=doomed.env(weed.env))
    for kind in (BEFORE, AFTER):
        assert wait_until(lambda: doomed.silences()[-1], job, poll=POLL_S)
        struck = workers(job.pid)
        kill_all(struck)
        killed |= struck
        keep_back(doomed, kind, "PUT /data/", 20)
    assert wait_until(lambda: doomed.silences()[-1], job, poll=POLL_S)
    left_over = workers(job.pid)
    kill(job)
    wait_for_the_end_of(left_over)
    settle(doomed)
    left = due(source, "outb/ray", fs)
    assert 0 < len(left) < len(source)
    proxied.reset()
    run_job("label.py", *command, env=proxied.env(weed.env), code=0)
    check_fetched(proxied, left)
    compare(tally, "workers and driver killed (Ray, S3)", len(killed) + 1, "outb/ray", undisturbed, fs)


@pytest.mark.usefixtures("source", "proxied")
def test_storage_that_fails_under_two_actors(
    weed: Weed, fs: Any, doomed: FaultProxy, undisturbed: Path, tally: Tally
) -> None:
    """What passes costs no row; what stays is a row that says so, and is healed when it is over."""
    command = [*INPUT, "--output", "s3://outb/faulty", *FLAGS, "--workers", 2]
    doomed.reset()
    doomed.fail(*TRANSIENT, *PERMANENT)
    run_job("label.py", *command, env=doomed.env(weed.env), code=0)
    hits = doomed.hits()
    doomed.fail()
    assert hits[: len(TRANSIENT)] == [rule.times for rule in TRANSIENT]
    failed = [row for row in rows("outb/faulty", fs).to_pylist() if row["status"] != "ok"]
    assert [(row["key"], row["status"], row["error"]) for row in failed] == [
        ("0015.png", "fetch_error", "access denied"),
        ("0017.png", "fetch_error", "not found"),
    ]
    assert run_here("s3://inb/storm/", "s3://outb/faulty", **SPAN, retry_failed=True) == 0
    compare(tally, "storage that fails (Ray, S3)", sum(hits), "outb/faulty", undisturbed, fs)
