"""`--dry-run` says what would be done, or why it cannot be, and leaves no trace."""

import re
from pathlib import Path

import pytest

from tests.helpers import DATA, run_job, tree_bytes

DIGITS = DATA / "digits"
FLAGS = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--local"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dry") / "labels"
    run_job("label.py", *FLAGS, "--output", output, code=0)
    return output


def test_it_predicts_and_writes_nothing(output: Path, tmp_path: Path) -> None:
    done = run_job("label.py", *FLAGS, "--output", tmp_path / "out", "--dry-run", code=0)
    assert not list(tmp_path.iterdir())
    assert "64 images tried" in done.stdout
    assert "about 360 images" in done.stdout
    files, rows = re.search(r"files +(\d+) of up to (\d+) rows", done.stdout).groups()  # type: ignore[union-attr]
    assert int(files) == len(list((output / "data").iterdir()))
    assert int(files) * int(rows) >= 360
    assert "finished" not in done.stdout


def test_it_says_what_is_there_already_and_leaves_it_alone(output: Path) -> None:
    before = tree_bytes(output)
    done = run_job("label.py", *FLAGS, "--output", output, "--dry-run", code=0)
    assert "finished 12 files are in" in done.stdout
    assert tree_bytes(output) == before


def test_it_refuses_what_a_run_would_refuse(output: Path, tmp_path: Path) -> None:
    before = tree_bytes(output)
    done = run_job("label.py", *FLAGS, "--output", output, "--dtype", "bfloat16", "--dry-run", code=2)
    assert "belongs to a run with dtype = float32, this command has bfloat16" in done.stderr
    assert tree_bytes(output) == before
    done = run_job("label.py", *FLAGS[2:], "--input", tmp_path, "--output", output, "--dry-run", code=2)
    assert "no image and no shard found" in done.stderr
