"""Drivers and workers killed without warning, at random and at precise moments: the same command ends it right."""

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.flow import make_tar, png, run_here
from tests.helpers import rows, run_job, tree_bytes
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import (
    FLAGS,
    HOOKS,
    compare,
    die_at,
    files,
    kill,
    kill_all,
    more_than,
    start,
    wait_for_the_end_of,
    wait_until,
    workers,
)
from tests.torture.victims import Victim

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
SPANS = 300 + 20
# In the order of a run's life: what the driver does (with which path), and which time it does so.
POINTS = [
    "link:before:1:_run.json", "link:after:1:_run.json",
    "link:before:1:/plan/part-", "link:after:1:/plan/part-", "unlink:before:1:/plan/.part-",
    "replace:before:1:/data/", "replace:after:1:/data/", "replace:before:7:/data/", "replace:after:11:/data/",
    "link:before:1:/plan/shard-", "link:after:1:/plan/shard-", "link:before:3:/plan/shard-",
    "replace:before:1:.spans.parquet", "replace:after:1:.spans.parquet",
    "replace:before:1:.json", "replace:after:1:.json", "replace:before:1:_SUCCESS", "replace:after:1:_SUCCESS",
]  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 tars of 20 images, and 80 loose ones."""
    folder = tmp_path_factory.mktemp("kills")
    members = named(1200)
    for number in range(60):
        make_tar(folder / f"in/t{number:02d}.tar", members[20 * number : 20 * number + 20])
    for name, data in named(80):
        (folder / "in" / name).write_bytes(data)
    return folder / "in"


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> Path:
    run_job("label.py", "--input", source, "--output", source.parent / "whole", *FLAGS, "--local", code=0)
    assert len(files(source.parent / "whole")) == SPANS
    return source.parent / "whole"


def test_twenty_kills_of_the_driver_at_random_moments(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally
) -> None:
    chance, output, kills = random.Random(5), tmp_path / "out", 0
    command = ["--input", source, "--output", output, *FLAGS, "--local"]
    for _ in range(20):
        before = files(output)
        target = len(before) + chance.randrange(0, 18)
        job = Victim(*command)
        # A third of them die while they are still starting.
        alive = wait_until(more_than(output, target), job) if target > len(before) + 6 else True
        time.sleep(chance.random() * (0.02 if target > len(before) + 6 else 0.5))
        kills += alive and job.poll() is None
        kill(job)
        assert before.items() <= files(output).items()  # what is finished is not written again
    before = files(output)
    run_job("label.py", *command, code=0)
    assert before.items() <= files(output).items()
    assert kills >= 18
    compare(tally, "driver killed (--local)", kills, output, undisturbed)


def test_kills_at_precise_moments(tmp_path: Path, tally: Tally) -> None:
    source = tmp_path / "in"
    for letter in "abc":
        make_tar(source / f"{letter}.tar", named(11))
    for name, data in named(9):
        (source / name).write_bytes(data)
    flags = ["--input", source, *FLAGS, "--local"]
    run_job("label.py", *flags, "--output", tmp_path / "whole", code=0)
    for point in POINTS:
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        die_at(point, *flags, "--output", output)
        before = files(output)
        assert run_here(source, output, span_size=4, batch_size=4) == 0, point
        assert before.items() <= files(output).items(), point
        compare(tally if point == POINTS[-1] else (lambda *_, **__: None), "driver killed at a precise call",
                len(POINTS), output, tmp_path / "whole")  # fmt: skip
        assert (output / "_SUCCESS").exists()


def test_kills_while_an_output_is_started_over(tmp_path: Path, tally: Tally) -> None:
    source, output = tmp_path / "in", tmp_path / "out"
    make_tar(source / "a.tar", named(11))
    flags = ["--input", source, "--output", output, *FLAGS, "--local"]
    run_job("label.py", *flags, code=0)
    before = tree_bytes(output / "data")
    points = ["unlink:before:1:_SUCCESS", "unlink:after:2:/data/", "unlink:before:1:/plan/", "unlink:after:1:/runs/",
              "unlink:before:1:_run.json", "unlink:after:1:_run.json"]  # fmt: skip
    for point in points:
        die_at(point, *flags, "--overwrite")
        assert run_here(source, output, span_size=4, batch_size=4, overwrite=True) == 0, point
        assert tree_bytes(output / "data") == before
    tally("driver killed in --overwrite", injected=len(points), lost=0, duplicated=0)


def test_kills_while_failed_rows_are_done_again(tmp_path: Path, tally: Tally) -> None:
    source = tmp_path / "in"
    big = {3, 9, 10}
    make_tar(source / "a.tar", [(f"{n:02d}.png", png(n, (90, 90) if n in big else (8, 8))) for n in range(14)])
    flags = ["--input", source, *FLAGS, "--local"]
    run_job("label.py", *flags, "--output", tmp_path / "whole", code=0)
    points = ["replace:before:1:/data/", "replace:after:1:/data/", "replace:after:2:/data/", "link:before:1:/plan/"]
    done = 0
    for point in points:
        output = tmp_path / point.replace(":", "").replace("/", "")
        assert run_here(source, output, span_size=4, batch_size=4, max_pixels=1000) == 3
        job = Victim(*flags, "--output", output, "--retry-failed", env={"PYTHONPATH": HOOKS, "DIE_AT": point})
        job.communicate()
        done += job.poll() == -signal.SIGKILL
        assert run_here(source, output, span_size=4, batch_size=4, retry_failed=True) == 0, point
        assert rows(output).equals(rows(tmp_path / "whole")), point
    assert done >= 3
    compare(tally, "driver killed in --retry-failed", done, output, tmp_path / "whole")


def test_kills_of_a_ray_driver(source: Path, undisturbed: Path, tmp_path: Path, tally: Tally) -> None:
    chance, output = random.Random(7), tmp_path / "out"
    command = ["--input", source, "--output", output, *FLAGS, "--workers", 2]
    for target in (1, 120):
        job = start(*command)
        assert wait_until(more_than(output, target), job)
        time.sleep(chance.random() * 0.2)
        left = workers(job.pid)
        kill(job)
        wait_for_the_end_of(left)  # they follow their driver; what they still write is whole
    before = files(output)
    run_job("label.py", *command, code=0)
    assert before.items() <= files(output).items()
    compare(tally, "driver killed (Ray)", 2, output, undisturbed)


def test_kills_of_workers_and_decoders(source: Path, undisturbed: Path, tmp_path: Path, tally: Tally) -> None:
    """Actors and decoding children, three times while the run goes on: it ends by itself."""
    output, killed = tmp_path / "out", 0
    job = start("--input", source, "--output", output, *FLAGS, "--workers", 2)
    for target in (10, 60, 130):
        assert wait_until(more_than(output, target), job)
        killed += kill_all(workers(job.pid))
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    assert killed >= 6
    compare(tally, "workers and decoders killed", killed, output, undisturbed)


def test_a_worker_that_is_killed_while_it_writes_leaves_nothing(tmp_path: Path, tally: Tally) -> None:
    """Each actor before it gives its fourth file its name; the run goes on with others and ends by itself."""
    make_tar(tmp_path / "in/a.tar", named(38))
    flags = ["--input", tmp_path / "in", *FLAGS]
    run_job("label.py", *flags, "--output", tmp_path / "whole", "--local", code=0)
    deaths = tmp_path / "deaths"
    deaths.mkdir()
    hooks = {"PYTHONPATH": HOOKS, "DIE_AT": "replace:before:4:/data/", "DEATHS": str(deaths)}
    run_job("label.py", *flags, "--output", tmp_path / "out", "--workers", 1, env=hooks, code=0)
    killed = len(list(deaths.iterdir()))
    assert killed == 3  # of ten spans each actor but the last writes three
    compare(tally, "worker killed while it writes", killed, tmp_path / "out", tmp_path / "whole")
