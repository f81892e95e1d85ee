"""A lease whose run was killed: a run that waits for it begins within its stated time."""

import json
import time
from pathlib import Path

import pytest

from pipeline.output.lease import LEASE_S
from tests.flow import make_tar
from tests.helpers import run_job
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, compare, kill, start, wait_until

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]


def test_a_lease_left_by_a_kill_delays_nobody_for_longer_than_it_says(tmp_path: Path, tally: Tally) -> None:
    for number in range(40):
        make_tar(tmp_path / f"in/{number:02d}.tar", named(400)[10 * number : 10 * number + 10])
    command = ["--input", tmp_path / "in", *FLAGS, "--local"]
    job = start(*command, "--output", tmp_path / "out")
    assert wait_until((tmp_path / "out/_lease.json").exists, job)
    kill(job)
    assert (tmp_path / "out/_lease.json").exists()
    began = time.monotonic()
    waiting = start(*command, "--output", tmp_path / "out", "--if-running", "wait")
    left = holder(tmp_path / "out")
    assert wait_until(lambda: holder(tmp_path / "out") != left, waiting)
    waited = time.monotonic() - began
    said, _ = waiting.communicate(timeout=300)
    assert waiting.returncode == 0, said
    assert "has the lease of" in said
    run_job("label.py", *command, "--output", tmp_path / "calm", code=0)
    fault = f"lease of {LEASE_S:.0f} s left by a kill, another's {waited:.0f} s after its start"
    compare(tally, fault, 1, tmp_path / "out", tmp_path / "calm")


def holder(output: Path) -> str:
    return str(json.loads((output / "_lease.json").read_text())["run"])
