"""The bench runs on a small model, next to the reference."""

import json
import math
import re
from pathlib import Path

import pytest
import torch

from beit_core import load_card, load_model
from pipeline.bench.bench import Wish, bench
from pipeline.bench.end_to_end import some_of, steady
from pipeline.bench.feed import Here, feed
from pipeline.bench.made import make_tars
from pipeline.bench.nothing import Images
from pipeline.bench.products import products_of
from pipeline.bench.timing import LIMIT, OURS, REFERENCE, figure, in_turns
from pipeline.decode import pool as pools
from pipeline.errors import ConfigError, PipelineError
from pipeline.output.place import Place
from tests.flow import DIGITS, make_tar, png
from tests.helpers import ROOT, run_job
from tests.models import save_dvae


def test_every_step_stands_beside_its_limit_and_the_reference(tmp_path: Path) -> None:
    wish = Wish(
        str(DIGITS / "model"), [str(DIGITS / "shards")], ("decode", "model"), against_hf=True, batch=4, compiling=False
    )
    report = bench(wish, ROOT / "jobs/embed.py", tmp_path)
    steps = [figure.step.split(",")[0] for figure in report.figures]
    assert steps == ["decode to 32 x 32", "resize to 32 x 32"] * 2 + ["model"]
    assert all(figure.ours > 0 for figure in report.figures)
    assert all(figure.share and figure.ratio for figure in report.figures if not figure.step.startswith("resize"))
    assert all(f"| {figure.step} |" in str(report) for figure in report.figures)
    assert "CPU time of child and parent" in str(report)
    assert str(report).endswith(report.verdict)


def test_figures_that_cannot_be_kept_are_refused_before_they_are_measured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = run_job("bench.py", "--json", tmp_path / "file/figures.json", code=2, timeout=60)
    assert f"--json {tmp_path}/file/figures.json cannot be written, name a file elsewhere: Not a dir" in done.stderr


@pytest.mark.parametrize("rate", [-5.0, math.nan, math.inf])
def test_numbers_that_measure_nothing_are_refused(rate: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"--feed {rate:g}: give the accelerator's images per second, or no number"):
        feed([], rate)
    with pytest.raises(ConfigError, match="--batch-size -1: give a number above 0"):
        bench(Wish(batch=-1), ROOT / "jobs/embed.py", tmp_path)


def test_damaged_files_are_not_measured(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    (folder / "b.png").write_bytes(png(7)[:45])
    wish = Wish(str(DIGITS / "model"), [str(folder)], ("decode",), against_hf=True)
    with pytest.raises(ConfigError, match=f"--input {folder}: no image that can be decoded; give another"):
        bench(wish, ROOT / "jobs/embed.py", tmp_path)
    for number in range(3):
        (folder / f"good-{number}.png").write_bytes(png(number))
    assert some_of(Images.of([str(folder)])) == [png(number) for number in range(3)]
    figures = bench(wish, ROOT / "jobs/embed.py", tmp_path).figures
    assert len(figures) == 4
    assert all(figure.ours > 0 for figure in figures)


@pytest.mark.parametrize(("steps", "left"), [("model run", "model and run"), ("decode model", "model")])
def test_a_tokenizer_is_no_model_to_measure(steps: str, left: str, tmp_path: Path) -> None:
    dvae = save_dvae(tmp_path / "dvae")
    done = run_job("bench.py", "--model", dvae, "--steps", *steps.split(), code=2)
    assert f"--model {dvae} is a tokenizer, " in done.stderr
    assert done.stderr.endswith(f": give a BEiT, or leave {left} out of --steps\n")
    assert done.stdout == ""


def test_rates_and_ratios_are_those_of_the_seconds() -> None:
    found = figure("step", "second", 10, {OURS: [1, 2, 4], LIMIT: [1, 1, 1], REFERENCE: [4, 4, 4]})
    assert (found.ours, found.limit, found.reference) == (5, 10, 2.5)
    assert found.share == (0.25, 0.5, 1)
    assert found.ratio == (1, 2, 4)


def test_turns_alternate_after_a_round_that_is_not_counted() -> None:
    done: list[str] = []
    clock = iter(range(100))
    seconds = in_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, lambda: float(next(clock)), 2)
    assert "".join(done) == "ababab"
    assert {name: len(spent) for name, spent in seconds.items()} == {"a": 2, "b": 2}


def test_the_products_of_a_model_are_those_of_its_layers() -> None:
    card = load_card(DIGITS / "model")
    beit, batch = card.beit, 2
    model = load_model(card).eval()
    pixels = torch.zeros(batch, 3, *beit.image_size)
    patches = beit.grid[0] * beit.grid[1]
    tokens, width, hidden = patches + 1, beit.width, beit.mlp_width
    layer = tokens * width * (4 * width + 2 * hidden) + 2 * tokens * tokens * width
    patch = patches * width * 3 * beit.patch_size**2
    head = width * len(card.labels)
    found = products_of(lambda: model(pixels))
    assert sum(count * p.batch * p.m * p.k * p.n for p, count in found.items()) == batch * (
        beit.depth * layer + patch + head
    )


def test_a_steady_rate_begins_when_all_workers_have_finished_a_span() -> None:
    assert steady([(0, 0), (20, 8), (21, 16), (23, 24), (25, 32)], workers=2) == 4
    with pytest.raises(PipelineError, match="too few spans"):
        steady([(0, 0), (20, 8)], workers=2)


@pytest.mark.torture
def test_a_whole_run_is_measured_next_to_a_loop_of_transformers(tmp_path: Path) -> None:
    source, out = make_tars(tmp_path / "in", 512), tmp_path / "figures.json"
    flags = ["--input", source, "--against", "hf", "--steps", "model", "run", "--json", out]
    done = run_job("bench.py", "--model", DIGITS / "model", *flags, code=0)
    figures = {figure["step"]: figure for figure in json.loads(out.read_text())["figures"]}
    (found,) = [figure for step, figure in figures.items() if "start-up excluded" in step]
    assert found["ours"] > 0
    assert found["reference"] > 0
    assert found["step"] in done.stdout.splitlines()[-1]


@pytest.mark.torture
def test_the_feed_is_measured_with_real_photographs(photos: Path, tmp_path: Path) -> None:
    for number in range(8):
        members = [(path.name, path.read_bytes()) for path in sorted(photos.glob("*.jpg"))]
        make_tar(tmp_path / f"in/{number}.tar", members)
    done = run_job("bench.py", "--feed", 100, "--input", tmp_path / "in", "--json", tmp_path / "feed.json", code=0)
    figures = json.loads((tmp_path / "feed.json").read_text())
    assert 0 < figures["share"]["least"] <= figures["share"]["median"] <= figures["share"]["greatest"]
    assert figures["rate"] == 100
    found = re.search(
        r"feed: ([\d,]+) images/s .* for ([\d.]+) s in mid-stream; .* cores: ([\d,]+) images/s; share ([\d.]+)",
        done.stdout,
    )
    assert found
    assert all(float(number.replace(",", "")) > 0 for number in found.groups())
    assert ("that is too short to tell" in done.stdout) == (float(found[2]) < 1)
    assert re.search(r"an accelerator of 100 images/s is busy (\d+)% of the time", done.stdout)


@pytest.mark.torture
def test_too_few_images_tell_nothing_of_the_feed(photos: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(path.name, path.read_bytes()) for path in sorted(photos.glob("*.jpg"))])
    done = run_job("bench.py", "--feed", "--input", tmp_path / "in", code=1)
    assert "the images are too few to tell how fast they pass" in done.stderr


def test_a_feed_without_images_is_refused(tmp_path: Path) -> None:
    done = run_job("bench.py", "--feed", "--input", tmp_path / "nothing", code=2)
    assert "nothing does not exist" in done.stderr


def test_a_feed_where_no_process_can_decode_ends_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr(pools, "FIRST_WAIT_S", 0)
    with pytest.raises(PipelineError, match="it ended at once, 6 times"):
        Here().run(Images.of([str(DIGITS / "shards")]), Place(str(tmp_path / "out")), 0.0)
