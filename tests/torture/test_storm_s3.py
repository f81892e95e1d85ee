"""Runs between S3 and S3, killed at random moments: their drivers, and on Ray their workers."""

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultProxy
from tests.flow import make_tar, run_here
from tests.helpers import run_job
from tests.proxied import named, s3_client
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, SPAN, compare, kill, kill_all, start, wait_for_the_end_of, wait_until, workers
from tests.torture.s3 import POLL_S, due, fetched, put, settle
from tests.torture.victims import Victim
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
INPUT = ["--input", "s3://inb/storm/"]


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


def more_put_than(proxy: FaultProxy, spans: int) -> Callable[[], bool]:
    """Whether so many spans were put by way of a proxy."""
    return lambda: sum("/data/" in asked and asked.startswith("PUT") for asked in proxy.requests()) >= spans


def test_seven_kills_of_the_driver_at_random_moments(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], undisturbed: Path,
    tally: Tally,
) -> None:  # fmt: skip
    chance, kills, left = random.Random(11), 0, due(source, "outb/storm", fs)
    command = [*INPUT, "--output", "s3://outb/storm", *FLAGS, "--local"]
    for _ in range(7):
        doomed.reset()
        target = chance.randrange(0, 20)
        job = Victim(*command, env=doomed.env(weed.env))
        # A third of them die while they are still starting.
        alive = wait_until(more_put_than(doomed, target), job, poll=POLL_S) if target > 8 else True
        time.sleep(chance.random() * (0.05 if target > 8 else 0.5))
        kills += alive and job.poll() is None
        kill(job)
        settle(doomed)
        assert all(size <= left.get(key, 0) for key, size in fetched(doomed).items())
        left = due(source, "outb/storm", fs)
    proxied.reset()
    assert run_here("s3://inb/storm/", "s3://outb/storm", **SPAN) == 0
    assert fetched(proxied) == left
    assert kills >= 6
    compare(tally, "driver killed (--local, S3)", kills, "outb/storm", undisturbed, fs)


def test_kills_of_workers_and_then_of_their_driver(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], undisturbed: Path,
    tally: Tally,
) -> None:  # fmt: skip
    """The run goes on without its workers; without its driver all of Ray ends, and the same command goes on."""
    command, killed = [*INPUT, "--output", "s3://outb/ray", *FLAGS, "--workers", 2], 0
    doomed.reset()
    job = start(*command, env=doomed.env(weed.env))
    for target in (8, 40):
        assert wait_until(more_put_than(doomed, target), job, poll=POLL_S)
        killed += kill_all(workers(job.pid))
    assert wait_until(more_put_than(doomed, 70), job, poll=POLL_S)
    left_over = workers(job.pid)
    kill(job)
    wait_for_the_end_of(left_over)
    settle(doomed)
    left = due(source, "outb/ray", fs)
    assert 0 < len(left) < len(source)
    proxied.reset()
    run_job("label.py", *command, env=proxied.env(weed.env), code=0)
    assert fetched(proxied) == left
    assert killed >= 4
    compare(tally, "workers and driver killed (Ray, S3)", killed + 1, "outb/ray", undisturbed, fs)
