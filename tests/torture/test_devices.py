"""Devices that fail under Ray: the process ends, another does its spans, a stated number of times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, tree_bytes
from tests.torture.conftest import Tally

pytestmark = [pytest.mark.torture, pytest.mark.timeout(300)]


def moody(output: Path, strikes: Path, times: int, *more: str) -> subprocess.CompletedProcess[str]:
    strikes.mkdir(exist_ok=True)
    command = [sys.executable, "tests/torture/moody_job.py", "--input", str(DIGITS / "shards"), "--model",
               str(DIGITS / "model"), "--output", str(output), "--dtype", "float32", "--strikes", str(strikes),
               "--times", str(times), *more]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, env=clean_env(), capture_output=True, text=True, timeout=250, check=False)


def test_a_device_that_fails_now_and_then_costs_no_row_and_no_run(tmp_path: Path, tally: Tally) -> None:
    calm = moody(tmp_path / "calm", tmp_path / "none", 0, "--local")
    assert calm.returncode == 0, calm.stderr
    done = moody(tmp_path / "out", tmp_path / "strikes", 2, "--workers", "1")
    assert done.returncode == 0, done.stdout + done.stderr
    injected = len(os.listdir(tmp_path / "strikes"))
    tally("device failures under Ray", injected=injected, lost=0, duplicated=0)
    assert injected == 2
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "calm/data")


def test_without_ray_the_process_becomes_a_fresh_one(tmp_path: Path, tally: Tally) -> None:
    calm = moody(tmp_path / "calm", tmp_path / "none", 0, "--local", "--span-size", "32")
    assert calm.returncode == 0, calm.stderr
    for number, more in enumerate([[], ["--overwrite"]]):
        done = moody(
            tmp_path / "out", tmp_path / f"strikes{number}", 2, "--local", "--workers", "1", "--span-size", "32", *more
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr.count("starting again") == 2
        assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "calm/data")
    tally("device failures (--local)", injected=4, lost=0, duplicated=0)


def test_a_device_that_always_fails_ends_the_run_with_the_reason(tmp_path: Path) -> None:
    done = moody(tmp_path / "out", tmp_path / "strikes", 99, "--workers", "1")
    assert done.returncode == 1
    assert "the device failed (an illegal memory access was encountered)" in done.stderr
    assert len(os.listdir(tmp_path / "strikes")) == 4  # three processes more than the first
