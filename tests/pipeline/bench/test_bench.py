"""The bench runs on a small model, next to the reference."""

import re
from pathlib import Path

import pytest

from pipeline.bench.bench import bench
from tests.flow import DIGITS, make_tar
from tests.helpers import run_job


def test_the_bench_prints_a_figure_and_a_ratio_per_step() -> None:
    figures = bench(str(DIGITS / "model"), against_hf=True, batch=4)
    assert [str(figure).split()[0] for figure in figures] == ["decode", "decode,", "predict"]
    decoding, cost, predicting = figures
    assert all(figure.ours > 0 and figure.reference and figure.ratios for figure in (decoding, predicting))
    assert 0 < cost.parent_s < cost.quick_s


@pytest.mark.torture
def test_the_feed_is_measured_with_real_photographs(photos: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(path.name, path.read_bytes()) for path in sorted(photos.glob("*.jpg"))])
    done = run_job("bench.py", "--feed", 10, "--input", tmp_path / "in", code=0)
    found = re.search(r"feed: ([\d,]+) images/s of 32 .* alone, .*: ([\d,]+) images/s; share ([\d.]+)", done.stdout)
    assert found
    assert all(float(number.replace(",", "")) > 0 for number in found.groups())
    assert re.search(r"an accelerator of 10 images/s is busy (\d+)% of the time", done.stdout)


def test_a_feed_without_images_is_refused(tmp_path: Path) -> None:
    done = run_job("bench.py", "--feed", "--input", tmp_path / "nothing", code=2)
    assert "nothing does not exist" in done.stderr
