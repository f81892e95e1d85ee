"""Drivers and workers killed without warning, always at a point that their run must come to: a call of the operating
system, or an image that waits. The same command ends it right.
"""

import json
import random
import shutil
from pathlib import Path

import pytest

from pipeline.output.place import Place
from pipeline.plan.verify import verify
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, run_job, tree_bytes
from tests.outputs import newest_report
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.gate import WAIT, Gate
from tests.torture.proof import (
    FLAGS,
    HOOKS,
    SPAN,
    compare,
    die_at,
    files,
    kill,
    kill_all,
    more_than,
    pullers,
    start,
    wait_for_the_end_of,
    wait_until,
    workers,
)

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
SPANS = 300 + 20
IMAGES = 4000  # of a shard that takes one worker some ten seconds
# In the order of a run's life: what the driver does (with which path), and which time it does so.
POINTS = [
    "link:before:1:_run.json", "link:after:1:_run.json",
    "link:before:1:/plan/part-", "link:after:1:/plan/part-", "unlink:before:1:/plan/.part-",
    "replace:before:1:/data/", "replace:after:1:/data/", "replace:before:7:/data/", "replace:after:11:/data/",
    "link:before:1:/plan/shard-", "link:after:1:/plan/shard-", "link:before:3:/plan/shard-",
    "replace:before:1:.spans.parquet", "replace:after:1:.spans.parquet",
    "replace:before:1:.json", "replace:after:1:.json", "replace:before:1:_SUCCESS", "replace:after:1:_SUCCESS",
]  # fmt: skip
# What a run that goes on does before its first new span: looks at the source, the output and the model.
STARTING = [
    "scandir:before:1:/in",
    "scandir:before:1:/out/data",
    "scandir:before:2:/in",
    "stat:after:1:model.safetensors",
]


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


def points(count: int) -> list[str]:
    """Drawn by chance: a third while the run is still starting, the others at one of its next 20 files."""
    chance = random.Random(5)
    drawn = []
    for _ in range(count):
        moment, number = chance.choice(("before", "after")), chance.randrange(1, 20)
        early = drawn and chance.random() < 1 / 3
        drawn.append(chance.choice(STARTING) if early else f"replace:{moment}:{number}:/data/")
    return drawn


def test_twenty_kills_of_the_driver_one_after_another(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally
) -> None:
    output, drawn = tmp_path / "out", points(20)
    command = ["--input", source, "--output", output, *FLAGS, "--local"]
    for point in drawn:
        before = files(output)
        die_at(point, *command)
        assert before.items() <= files(output).items(), point  # what is finished is not written again
    before = files(output)
    assert len(before) < SPANS
    run_job("label.py", *command, code=0)
    assert before.items() <= files(output).items()
    compare(tally, "driver killed (--local)", len(drawn), output, undisturbed)


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
    again = ["replace:before:1:/data/", "replace:after:1:/data/", "replace:after:2:/data/", "replace:before:1:/runs/"]
    for point in again:
        output = tmp_path / point.replace(":", "").replace("/", "")
        assert run_here(source, output, **SPAN, max_pixels=1000) == 3
        die_at(point, *flags, "--output", output, "--retry-failed")
        assert run_here(source, output, **SPAN, retry_failed=True) == 0, point
        assert rows(output).equals(rows(tmp_path / "whole")), point
    compare(tally, "driver killed in --retry-failed", len(again), output, tmp_path / "whole")


@pytest.fixture(scope="module")
def halting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 tars of 20 images, the first of which has one that waits."""
    folder, members = tmp_path_factory.mktemp("halting"), named(600)
    members[7] = (members[7][0], WAIT)
    for number in range(30):
        make_tar(folder / f"in/t{number:02d}.tar", members[20 * number : 20 * number + 20])
    return folder / "in"


@pytest.fixture(scope="module")
def not_halted(halting: Path) -> Path:
    gate = Gate(halting.parent / "ajar")
    gate.open()
    flags = ["--input", halting, "--output", halting.parent / "whole", *FLAGS, "--local"]
    run_job("label.py", *flags, env=gate.env, code=0)
    return halting.parent / "whole"


def test_kills_of_a_ray_driver(halting: Path, not_halted: Path, tmp_path: Path, tally: Tally) -> None:
    """While one actor holds an image that waits, and the other has finished so many spans."""
    output = tmp_path / "out"
    command = ["--input", halting, "--output", output, *FLAGS, "--workers", 2]
    for target in (1, 40):
        gate = Gate(tmp_path / f"gate-{target}")
        job = start(*command, env=gate.env)
        assert wait_until(gate.others_wait(set(), job.pid), job)
        assert wait_until(more_than(output, target), job)
        left, actors = workers(job.pid), workers(job.pid, decoders=False)
        kill(job)
        wait_for_the_end_of(actors)  # they follow their driver; what they still write is whole
        gate.open()
        wait_for_the_end_of(left)
    before = files(output)
    run_job("label.py", *command, env=gate.env, code=0)
    assert before.items() <= files(output).items()
    compare(tally, "driver killed (Ray)", 2, output, not_halted)


def test_kills_of_workers_and_decoders(halting: Path, not_halted: Path, tmp_path: Path, tally: Tally) -> None:
    """Actors and decoding children, three times while one of them holds an image that waits: the run ends by itself."""
    output, gate, killed = tmp_path / "out", Gate(tmp_path / "gate"), set[int]()
    job = start("--input", halting, "--output", output, *FLAGS, "--workers", 2, env=gate.env)
    for target in (10, 30, 50):
        assert wait_until(gate.others_wait(killed, job.pid), job)
        assert wait_until(more_than(output, target), job)
        struck = workers(job.pid)
        kill_all(struck)
        killed |= struck
    gate.open()
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    compare(tally, "workers and decoders killed", len(killed), output, not_halted)


def test_what_is_done_after_a_worker_was_killed_late_in_a_shard_is_reported(tmp_path: Path, tally: Tally) -> None:
    """It has given reports every two seconds; the next one has less to do than it had done, and so fewer to give."""
    make_tar(tmp_path / "in/a.tar", named(IMAGES))
    flags = ["--input", tmp_path / "in", *FLAGS]
    run_job("label.py", *flags, "--output", tmp_path / "whole", "--local", code=0)
    output = tmp_path / "out"
    job = start(*flags, "--output", output, "--workers", 1)
    assert wait_until(more_than(output, IMAGES // 4 * 2 // 3), job)
    killed = kill_all(workers(job.pid, decoders=False))
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    done = json.loads(newest_report(output).read_text())["images"]["done"]
    assert done > IMAGES * 3 // 4  # all but what the dead one had finished and not reported yet
    compare(tally, "worker killed late in a shard", killed, output, tmp_path / "whole")


def test_kills_of_the_task_that_pulls_rows(halting: Path, not_halted: Path, tmp_path: Path, tally: Tally) -> None:
    """Ray runs it again from the first row; rows that are with a worker by then are not given to another."""
    output, gate, killed = tmp_path / "out", Gate(tmp_path / "gate"), set[int]()
    job = start("--input", halting, "--output", output, *FLAGS, "--workers", 2, env=gate.env)
    for _ in range(2):
        assert wait_until(lambda: bool(pullers(job.pid) - killed), job)
        struck = pullers(job.pid)
        kill_all(struck)
        killed.update(struck)
    assert wait_until(gate.others_wait(set(), job.pid), job)
    gate.open()
    said, _ = job.communicate(timeout=240)
    assert job.returncode == 0, said
    assert len(killed) >= 2
    compare(tally, "task that pulls rows killed", len(killed), output, not_halted)


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


def test_kills_on_the_way_from_one_limit_to_the_next(tmp_path: Path, tally: Tally) -> None:
    source = tmp_path / "in"
    for letter in "ab":
        make_tar(source / f"{letter}.tar", named(11))
    flags = ["--input", source, *FLAGS, "--local"]
    run_job("label.py", *flags, "--output", tmp_path / "whole", code=0)
    points = [point for point in POINTS if ":1:" in point and "part-" not in point and "_run.json" not in point]
    killed = 0
    for point in points:
        output = tmp_path / "out"
        shutil.rmtree(output, ignore_errors=True)
        for limit, planned in ((6, 6), (13, 13), (None, 22)):
            more = {"limit": limit} if limit else {}
            if planned > 11 or "shard-" not in point:  # a stopped shard gets no entry
                die_at(point, *flags, "--output", output, *(["--limit", limit] if limit else []))
                killed += 1
            assert run_here(source, output, **SPAN, **more) == 0, (point, limit)
            assert len(rows(output)) == planned
            assert verify(Place.of(str(output))).green
        assert tree_bytes(output / "data") == tree_bytes(tmp_path / "whole/data"), point
    compare(tally, "driver killed between limits", killed, output, tmp_path / "whole")
