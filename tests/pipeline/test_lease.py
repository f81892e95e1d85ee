"""Who works on an output: runs that find another one at work share, wait or leave; what a dead one left expires."""

import json
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.output import lease
from pipeline.output.lease import Lease
from pipeline.output.place import Place
from tests.faults import FaultProxy, Rule
from tests.flow import DIGITS, run_here
from tests.helpers import tree_bytes
from tests.weed import Weed

SHARDS = DIGITS / "shards"
FLAGS = {"limit": 40, "span_size": 16, "task": "brightness"}
YEARS = 10 * 365 * 86400


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    monkeypatch.setattr(lease, "LOOK_S", 0.05)


@contextmanager
def another_run(output: Path) -> Iterator[Lease]:
    """One that has the lease and renews it."""
    other = Lease(Place.of(str(output)), "the-other")
    assert other.beat()
    threading.Thread(target=other.keep, daemon=True).start()
    try:
        yield other
    finally:
        other.release()


def leave_dead(output: Path, seconds: float) -> Path:
    """The lease of a run that was killed."""
    output.mkdir(exist_ok=True)
    file = output / "_lease.json"
    file.write_text(json.dumps({"run": "dead", "host": "gone", "seconds": seconds, "renewals": 7}))
    return file


def without_lease(output: Path) -> dict[str, bytes]:
    return {name: data for name, data in tree_bytes(output).items() if "_lease.json" not in name}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    assert run_here(SHARDS, tmp_path / "out", **FLAGS) == 0
    return tmp_path / "out"


def test_exit_leaves_the_output_as_it_is(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    next((finished / "data").iterdir()).unlink()  # there is something to do
    before = without_lease(finished)
    capsys.readouterr()
    with another_run(finished):
        assert run_here(SHARDS, finished, if_running="exit", **FLAGS) == 0
    said = capsys.readouterr()
    assert said.out == f"brightness: another run works on {finished}: left to it (--if-running exit)\n"
    assert without_lease(finished) == before


def test_join_shares_the_work_and_takes_no_lease_away(finished: Path) -> None:
    wanted = tree_bytes(finished / "data")
    next((finished / "data").iterdir()).unlink()
    with another_run(finished):
        assert run_here(SHARDS, finished, **FLAGS) == 0
        assert json.loads((finished / "_lease.json").read_text())["run"] == "the-other"
    assert tree_bytes(finished / "data") == wanted


def test_wait_begins_when_the_other_run_has_ended(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = tree_bytes(finished / "data")
    next((finished / "data").iterdir()).unlink()
    before, at_end = without_lease(finished), {}
    with another_run(finished) as other:

        def end() -> None:
            at_end.update(without_lease(finished))
            other.release()

        threading.Timer(1.0, end).start()
        assert run_here(SHARDS, finished, if_running="wait", **FLAGS) == 0
    assert at_end == before
    assert tree_bytes(finished / "data") == wanted
    assert f"run the-other on {platform.node()} has the lease of {finished}: waiting for it" in capsys.readouterr().err
    assert not (finished / "_lease.json").exists()


def test_overwrite_is_refused_while_another_run_works(finished: Path) -> None:
    before = without_lease(finished)
    with (
        another_run(finished),
        pytest.raises(ConfigError, match=r"--overwrite: run the-other on .* works on") as caught,
    ):
        run_here(SHARDS, finished, overwrite=True, **FLAGS)
    assert caught.value.exit_code == 2
    assert without_lease(finished) == before


@pytest.mark.parametrize(
    ("flags", "off"), [({"if_running": "exit"}, YEARS), ({"if_running": "wait"}, -YEARS), ({"overwrite": True}, 60)]
)
def test_the_lease_of_a_dead_run_expires_whatever_its_clock_said(
    finished: Path, flags: dict[str, object], off: int
) -> None:
    next((finished / "data").iterdir()).unlink()
    file = leave_dead(finished, 0.5)
    os.utime(file, (file.stat().st_mtime + off,) * 2)
    assert run_here(SHARDS, finished, **FLAGS, **flags) == 0
    assert len(list((finished / "data").iterdir())) == 3
    assert (finished / "_SUCCESS").exists()


def test_a_lease_that_was_taken_is_not_given_back(tmp_path: Path) -> None:
    file = leave_dead(tmp_path / "out", 0.2)
    first, second = (Lease(Place.of(str(tmp_path / "out")), name) for name in ("first", "second"))
    assert first.acquire("wait")
    assert not second.beat()
    file.write_text(file.read_text().replace("first", "second").replace("60.0", "0.2"))  # `first` was asleep for long
    assert not first.beat()
    first.release()
    assert json.loads(file.read_text())["run"] == "second"
    assert second.beat()
    second.release()
    assert not file.exists()


def test_on_s3_it_is_created_renewed_and_deleted(
    proxied: FaultProxy, weed: Weed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    proxied.fail(Rule("lost", "_lease.json", "PUT", times=2), Rule("latency", "/data/", "PUT", secs=0.5))
    assert run_here(SHARDS, "s3://outb/lease", **FLAGS) == 0
    asked = proxied.requests()
    assert asked["PUT outb/lease/_lease.json"] > 3
    assert asked["DELETE outb/lease/_lease.json"] == 1
    assert "_lease.json" not in tree_bytes("outb/lease", weed.fs())
