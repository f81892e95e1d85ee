"""Two outputs of the same images next to each other, and how a new model gets an output of its own."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from pipeline.compare import Labels, Masks, Vectors, compare
from pipeline.errors import ConfigError
from pipeline.evaluate import PixelPairs
from pipeline.page import drift
from tests.commands import flags_of, words_of
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, run_job
from tests.outputs import Examples, edit, newest_report


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' model with two classes that have changed places."""
    folder = shutil.copytree(DIGITS / "model", tmp_path_factory.mktemp("other") / "model")
    weights = load_file(folder / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name][[3, 5]] = weights[name][[5, 3]]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def outputs(other: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Of the old model over one shard, and of the other one over two, in spans of another size."""
    folder = tmp_path_factory.mktemp("outputs")
    shards = sorted((DIGITS / "shards").glob("*.tar"))
    assert run_here(shards[0], folder / "old", keep=("cls",)) == 0
    assert run_here(shards[:2], folder / "new", model=other, span_size=40, keep=("cls",)) == 0
    return folder / "new", folder / "old"


def test_labels_that_flip_are_counted_by_pair_and_shown(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    new, old = map(str, outputs)
    found = compare(new, old)
    before = {row["uri"]: row["labels"][0] for row in rows(old).to_pylist()}
    after = {row["uri"]: row["labels"][0] for row in rows(new).to_pylist()}
    flipped = {uri for uri in before if before[uri] != after[uri]}
    assert isinstance(found.difference, Labels)
    assert dict(found.counts) == {
        "both": len(before), "ok": len(before), "new": len(after) - len(before), "old": 0, "gained": 0, "lost": 0,
    }  # fmt: skip
    assert found.difference.same == len(before) - len(flipped)
    assert set(found.difference.pairs) == {("3", "5"), ("5", "3")}
    assert {flip.uri for flip in found.difference.flips} == flipped
    said = run_job("evaluate.py", new, "--against", old, "--to", tmp_path / "flips.html", code=0).stdout
    assert f"first label: {len(before) - len(flipped):,} of {len(before):,} agree" in said
    page = (tmp_path / "flips.html").read_text()
    assert page.count("<img") == len(flipped)
    assert page.count("<figure") == len(flipped)


def test_an_output_next_to_itself_agrees(outputs: tuple[Path, Path], examples: Examples, tmp_path: Path) -> None:
    same = compare(str(outputs[1]), str(outputs[1]))
    assert isinstance(same.difference, Labels)
    assert (same.difference.same, same.difference.flips) == (same.counts["both"], [])
    assert "mean 0.0000 (5 %: 0.0000, 50 %: 0.0000, 95 %: 0.0000)" in "\n".join(same.lines())
    for task, kind, said in [("embed", Vectors, "mean 1.0000"), ("segment", Masks, "mean IoU 1.0000")]:
        output = str(examples.copy(task, tmp_path / task))
        found = compare(output, output)
        assert isinstance(found.difference, kind)
        assert said in "\n".join(found.lines())
    with pytest.raises(ConfigError, match="neither labels, masks nor embeddings in common"):
        compare(str(outputs[0]), str(tmp_path / "embed"))


def renamed(model: Path, to: Path, order: str = "0123456789", names: str = "0123456789") -> Path:
    """A model whose classes come in another order, and are called by these letters."""
    shutil.copytree(model, to)
    weights = load_file(to / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][list(map(int, order))]
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    edit(to / "config.json", id2label=dict(enumerate(names)), label2id={})
    return to


@pytest.mark.parametrize("knows_names", [True, False])
def test_classes_of_one_name_are_told_apart_by_their_ids(
    outputs: tuple[Path, Path], other: Path, knows_names: bool, tmp_path: Path
) -> None:
    shard, twins = min((DIGITS / "shards").glob("*.tar")), "012a4a6789"
    for name, model in (("old", DIGITS / "model"), ("new", other)):
        assert run_here(shard, tmp_path / name, model=renamed(model, tmp_path / f"{name}-model", names=twins)) == 0
        if not knows_names:
            edit(tmp_path / name / "_run.json", labels=[])
    found, wanted = (
        compare(str(new), str(old)).difference for new, old in ((tmp_path / "new", tmp_path / "old"), outputs)
    )
    assert isinstance(found, Labels)
    assert isinstance(wanted, Labels)
    assert (found.same, len(found.flips)) == (wanted.same, len(wanted.flips))
    assert set(found.pairs) == {("a (3)", "a (5)"), ("a (5)", "a (3)")}


def test_a_model_that_numbers_the_same_classes_otherwise_agrees(outputs: tuple[Path, Path], tmp_path: Path) -> None:
    order = "9876543210"
    model = renamed(DIGITS / "model", tmp_path / "model", order, order)
    assert run_here(min((DIGITS / "shards").glob("*.tar")), tmp_path / "out", model=model) == 0
    found = compare(str(tmp_path / "out"), str(outputs[1])).difference
    assert isinstance(found, Labels)
    assert (found.same, found.flips) == (found.images, [])


def test_vectors_of_different_lengths_are_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    source = make_tar(tmp_path / "in/a.tar", [("a.png", png(9, (64, 64)))])
    assert run_here(source, tmp_path / "one", "embed") == 0
    assert run_here(source, tmp_path / "two", "embed", tiny_model("classifier")) == 0
    with pytest.raises(ConfigError, match="vectors of 64 and of 96 numbers"):
        compare(str(tmp_path / "two"), str(tmp_path / "one"))


def test_pixels_of_two_maps() -> None:
    pixels = PixelPairs()
    pixels.add(np.array([[0, 0], [1, 2]]), np.array([[0, 1], [1, 1]]))
    found = pixels.overlap()
    assert found.mean_iou == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)
    assert found.pixel_accuracy == 0.5


def test_a_class_that_is_left_out_has_no_part_in_the_mean() -> None:
    pixels = PixelPairs(ignore=0)
    pixels.add(np.array([[0, 0], [1, 0]]), np.array([[0, 1], [1, 2]]))
    found = pixels.overlap()
    assert found.mean_iou == pytest.approx((1 / 2 + 0) / 2)
    assert found.pixel_accuracy == pytest.approx(1 / 3)


@pytest.mark.torture
def test_the_refusal_of_another_model_has_the_command_that_starts_it(
    other: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = make_tar(tmp_path / "my in/a.tar", [("a.png", png(1)), ("b.png", png(2))])
    flags = ["--input", shard, "--local", "--dtype", "float32"]
    run_job("label.py", *flags, "--output", tmp_path / "labels", "--model", DIGITS / "model", code=0)
    said = run_job("label.py", *flags, f"--output={tmp_path}/labels", "--model", other, code=2).stderr
    assert "belongs to another model (" in said
    command = re.findall("`(.*)`", said)[0]
    assert flags_of(words_of(command), monkeypatch)["input"] == [str(shard)]
    words = shlex.split(command)
    run_job("label.py", *words[2:], code=0)
    (output,) = (tmp_path / "labels-by-model").iterdir()
    bound = json.loads((output / "_run.json").read_text())
    assert output.name == f"model={bound['model']['name']}-{bound['model']['fingerprint'][:8]}"
    again = run_job("label.py", *flags, "--model", DIGITS / "model", "--output", output, code=2).stderr
    assert f"{tmp_path}/labels-by-model/model=" in again


def test_drift_is_told_from_chance() -> None:
    even = {str(label): 1000.0 for label in range(10)}
    rng = np.random.default_rng(0)
    for _ in range(50):
        sample = np.bincount(rng.integers(0, 10, 100), minlength=10)
        assert not drift.psi(even, {str(i): float(n) for i, n in enumerate(sample)}).moved
    assert drift.psi(even, {"0": 60.0, "1": 40.0}).moved
    assert drift.psi(even, {"new": 500.0}).moved
    assert not drift.psi({"a": 3.0}, {"b": 3.0}).moved  # too few to tell


def test_the_page_tells_drift_once_two_runs_have_labels(tmp_path: Path) -> None:
    shards = sorted((DIGITS / "shards").glob("*.tar"))
    output, page = tmp_path / "out", tmp_path / "out/report.html"
    assert run_here(shards[0], output) == 0
    told = json.loads(newest_report(output).read_text())["first_labels"]
    assert sum(told.values()) == len(rows(output))
    run_job("report.py", output, code=0)
    assert 'id="drift"' not in page.read_text()
    assert run_here(shards[:2], output) == 0
    run_job("report.py", output, code=0)
    assert "First labels have not moved." in page.read_text()
