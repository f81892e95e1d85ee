"""The bench runs on a small model, next to the reference."""

from pipeline.bench import bench
from tests.flow import DIGITS


def test_the_bench_prints_a_figure_and_a_ratio_per_step() -> None:
    figures = bench(str(DIGITS / "model"), against_hf=True, batch=4)
    assert [str(figure).split()[0] for figure in figures] == ["decode", "predict"]
    assert all(figure.ours > 0 and figure.reference and figure.ratios for figure in figures)
