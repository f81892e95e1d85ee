"""What planning, Ray and receipts cost the driver of a run of very many spans, and how often a model is loaded."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.engine.cores import cores
from tests.flow import png
from tests.helpers import ROOT, clean_env
from tests.torture.conftest import Tally

pytestmark = [pytest.mark.torture, pytest.mark.timeout(1800)]
SPANS, FINISHED = 30_000, 10_000
MOST_MS = 5.0  # of the driver's CPU time, per span


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tiny images."""
    folder, image = tmp_path_factory.mktemp("many"), png(7)
    for number in range(SPANS):
        (folder / f"{number:05d}.png").write_bytes(image)
    return folder


def cost(source: Path, output: Path, loads: Path, *flags: str) -> dict[str, float]:
    """Seconds of CPU by step."""
    loads.mkdir()
    command = [sys.executable, "-m", "tests.torture.driver_cost", str(source), str(output), str(loads), *flags]
    env = clean_env({"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/jobs"})
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1500, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    assert told.pop("code") == 0
    return told


def test_many_spans_cost_the_driver_little(source: Path, tmp_path: Path, tally: Tally) -> None:
    cost(source, tmp_path / "out", tmp_path / "first", "--limit", str(FINISHED))
    told = cost(source, tmp_path / "out", tmp_path / "loads")
    each = 1000 * (told["plan"] + told["footers"] + told["main"]) / SPANS
    tally(f"{SPANS:,} spans, {FINISHED:,} finished: {each:.2f} ms of CPU each", injected=0, lost=0, duplicated=0)
    assert each <= MOST_MS
    assert len(os.listdir(tmp_path / "loads")) == cores()  # one predictor each


def test_many_spans_cost_the_driver_little_on_ray(source: Path, tmp_path: Path, tally: Tally) -> None:
    cost(source, tmp_path / "out", tmp_path / "first", "--limit", str(FINISHED))
    told = cost(source, tmp_path / "out", tmp_path / "loads", "--ray")
    each = 1000 * told["all"] / SPANS
    tally(f"{SPANS:,} spans on Ray: {each:.2f} ms of CPU each", injected=0, lost=0, duplicated=0)
    loads = Counter(name.partition("-")[0] for name in os.listdir(tmp_path / "loads"))
    assert set(loads.values()) == {1}
    assert each <= MOST_MS
