"""The recipes of docs/recipes.md and the snippets of README, run from their own text."""

import os
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.errors import ConfigError
from pipeline.evaluate import Accuracy, evaluate
from tests.beit_core.foreign_files import published_pickles
from tests.beit_core.test_dvae import SMALL, seeded
from tests.flow import DIGITS, png, run_here
from tests.helpers import DATA, ROOT, rows

RECIPES, README = (ROOT / "docs/recipes.md").read_text(), (ROOT / "README.md").read_text()
TASKS = ("label.py", "embed.py", "segment.py", "tokens.py", "brightness.py")


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipes") / "out"
    assert run_here(DIGITS / "shards", folder, keep=("cls",), with_embedding=True) == 0
    return folder


def blocks(text: str, kind: str, holds: str = "") -> list[str]:
    """The fenced blocks of this kind that hold some text, in order."""
    found = [block for name, block in re.findall(r"```(\w*)\n(.*?)```", text, re.DOTALL) if name == kind]
    return [block for block in found if holds in block]


def the_one(text: str, kind: str, holds: str) -> str:
    (block,) = blocks(text, kind, holds)
    return block


def run_python(block: str, output: Path) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(compile(block.replace("OUTPUT", str(output)), "recipe", "exec"), names)
    return names


def run_command(line: str, words: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit code of a command of the docs, in this process; `words` are put in for words of it."""
    python, script, *args = (str(words.get(word, word)) for word in shlex.split(line, comments=True))
    assert python == "python"
    local = ["--local", "--max-failed", "1"] if script.rpartition("/")[2] in TASKS else []
    monkeypatch.setattr(sys, "argv", [script, *args, *local])
    monkeypatch.setattr(os, "_exit", sys.exit)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    return int(str(ended.value.code))


def test_queries(output: Path) -> None:
    accuracy, failures = (duckdb.sql(query.replace("OUTPUT", str(output))) for query in blocks(RECIPES, "sql"))
    assert accuracy.fetchall()[0][0] == pytest.approx(357 / 360)
    assert failures.fetchall() == []
    assert evaluate(str(output), "cls") == Accuracy(360, 357, 360)


def test_nearest_neighbours(output: Path) -> None:
    found = run_python(the_one(RECIPES, "python", "faiss"), output)
    vectors, index = found["vectors"], found["index"]
    assert isinstance(vectors, np.ndarray)
    _, nearest = index.search(vectors[:20], 5)  # type: ignore[attr-defined]
    assert np.array_equal(nearest[:, 0], np.arange(20))
    labels = pq.read_table(output / "data", columns=["cls"])["cls"].to_pylist()
    assert np.mean([labels[i] == labels[j] for i, row in enumerate(nearest) for j in row[1:]]) > 0.9


def test_hugging_face_datasets(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    loaded = run_python(the_one(RECIPES, "python", "load_dataset"), output)["rows"]
    assert isinstance(loaded, datasets.Dataset)
    assert len(loaded) == 360
    assert set(loaded[0]) >= {"uri", "labels", "embedding"}


def test_a_mask_over_an_image_that_lies_in_a_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scenes = DATA / "digits-seg"
    assert run_here(scenes / "shards", tmp_path / "out", "segment", scenes / "model", limit=2) == 0
    monkeypatch.chdir(tmp_path)
    found = run_python(the_one(RECIPES, "python", "overlay"), tmp_path / "out")
    mask = found["mask"]
    assert isinstance(mask, np.ndarray)
    assert mask.shape == (64, 64)
    assert (tmp_path / "overlay.png").exists()


def test_commands(
    output: Path, tmp_path: Path, tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").write_bytes(png(7, (120, 120)))
    (tmp_path / "pickles").mkdir()
    published_pickles(tmp_path / "pickles", seeded())
    sizes = {"image_size": 112, "use_mean_pooling": True, "vocab_size": SMALL.vocab_size}
    words = {
        "OUTPUT": output,
        "DEST": tmp_path / "large",
        "DATASET": tmp_path / "dataset",
        "PHOTOS": tmp_path / "photos",
        "DALL-E-FOLDER": tmp_path / "pickles",
        "microsoft/beit-base-patch16-224-pt22k": tiny_model("masked", **sizes),
        **{name: tmp_path / name for name in ("dall-e", "tokens", "surprise")},
    }
    lines = [*the_one(RECIPES, "", "convert.py").splitlines(), *re.findall(r"`(python jobs/[^`]+)`", RECIPES)]
    assert len(lines) == 6
    assert [run_command(line, words, monkeypatch) for line in lines] == [0] * 6
    assert set(rows(tmp_path / "tokens").column_names) >= {"tokens"}
    assert set(rows(tmp_path / "surprise").column_names) >= {"masked", "predicted", "loss"}


def test_forgetting(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, uris = shutil.copytree(output, tmp_path / "out"), tmp_path / "gone.txt"
    uris.write_text("\n".join(rows(output)["uri"].to_pylist()[:3]))
    words: dict[str, object] = {"OUTPUT": mine, "gone.txt": uris}
    lines = the_one(RECIPES, "", "forget.py").splitlines()
    assert [run_command(line, words, monkeypatch) for line in lines] == [0, 0]
    assert len(rows(mine)) == 357


def test_the_core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = run_python(the_one(README, "python", "load_classifier"), ROOT)
    assert [tuple(found[name].shape) for name in ("pooled", "logits")] == [(2, 96), (2, 10)]  # type: ignore[attr-defined]
    assert len(found["names"]) == 2  # type: ignore[arg-type]


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(255))
    (tmp_path / "brightness.py").write_text(the_one(README, "python", "class Brightness"))
    line = f"python {tmp_path}/brightness.py --input {tmp_path}/in --output {tmp_path}/out --model {DIGITS}/model"
    assert run_command(line, {}, monkeypatch) == 0
    assert rows(tmp_path / "out")["brightness"].to_pylist() == [1.0]


def test_compacting_makes_few_files_of_all_rows(output: Path, tmp_path: Path) -> None:
    assert compact(str(output), str(tmp_path / "big"), 200) == (360, 2, 2, 0)
    big = pq.read_table(tmp_path / "big")
    files = sorted((tmp_path / "big").glob("*.parquet"))
    assert [pq.read_metadata(path).num_rows for path in files] == [180, 180]  # whole spans
    assert big.sort_by("uri").equals(pq.read_table(output / "data").replace_schema_metadata(None).sort_by("uri"))


def test_a_missing_truth_names_the_columns_there_are(output: Path) -> None:
    with pytest.raises(ConfigError, match=r"--keep txt; it has uri, key, .*labels, scores, embedding, cls"):
        evaluate(str(output), "txt")
