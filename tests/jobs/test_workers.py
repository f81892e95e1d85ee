"""A source of a thousand images keeps two workers busy on Ray, and is seen to go on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env
from tests.outputs import newest_report


@pytest.mark.torture
def test_a_thousand_photographs_keep_two_workers_busy(photos: Path, tmp_path: Path) -> None:
    for folder in ("in", "meet"):
        (tmp_path / folder).mkdir()
    for number in range(32):
        for photo in photos.iterdir():
            os.link(photo, tmp_path / f"in/{number:02d}-{photo.name}")
    command = [sys.executable, "tests/together_job.py", "--input", tmp_path / "in", "--output", tmp_path / "out",
               "--model", DIGITS / "model", "--workers", "2", "--meet", tmp_path / "meet", "--number", "2"]  # fmt: skip
    done = subprocess.run(
        [*map(str, command)], cwd=ROOT, env=clean_env(), capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(newest_report(tmp_path / "out").read_text())
    assert len(report["images_by_worker"]) == 2
    assert min(report["images_by_worker"].values()) >= 256  # neither had less than a quarter
    progress = [images for _, images in report["throughput"]]
    assert progress == list(range(0, 1025, 32))
