"""Kept columns that are called as answers are: a task is known by the columns that it adds, whatever a source has."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.compare import Vectors, compare
from pipeline.errors import ConfigError
from pipeline.evaluate import Accuracy, Overlap, evaluate
from pipeline.masks import to_png
from pipeline.page import page
from pipeline.page.files import TASKS, page_name
from tests.flow import DIGITS, png, run_here
from tests.helpers import DATA, rows
from tests.outputs import model_of, newest_report

SIDE, IMAGES = 32, 4
# A value of each kind that is none of what a task says under that name.
ODD: dict[str, list[Any]] = {"number": [1, 2, 3, None], "word": ["a", "b", None, "d"], "list": [[1], [2], [], [3]]}


def parquet(folder: Path, **columns: list[Any]) -> Path:
    folder.mkdir()
    images = [png(50 * number, (SIDE, SIDE)) for number in range(IMAGES)]
    pq.write_table(pa.table({"image": images, **columns}), folder / "a.parquet")
    return folder


def text_of(output: Path, **options: str) -> str:
    return Path(page.write(str(output), to=str(output / "page.html"), **options)).read_text()


def first_labels(output: Path) -> object:
    return json.loads(newest_report(output).read_text())["first_labels"]


@pytest.mark.parametrize("kind", ODD)
def test_a_run_counts_no_kept_column_as_labels(kind: str, tmp_path: Path) -> None:
    source = parquet(tmp_path / "in", labels=ODD[kind])
    assert run_here(source, tmp_path / "out", "embed", keep=("labels",)) == 0
    assert first_labels(tmp_path / "out") == {}


@dataclass(frozen=True)
class Plain:
    """An output of a task that keeps nothing, how it was made, and names of answers that are not its own."""

    task: str
    model: Path
    flags: dict[str, Any]
    output: Path

    @property
    def names(self) -> list[str]:
        return sorted({*TASKS, "source"} - set(rows(self.output).column_names))


@pytest.fixture(scope="module", params=["label", "embed", "segment", "tokens", "brightness"])
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    folder, task = tmp_path_factory.mktemp("plain"), str(request.param)
    model, flags = model_of(task, folder) if task != "brightness" else (DIGITS / "model", {})
    assert run_here(parquet(folder / "in"), folder / "out", task, model, **flags) == 0
    return Plain(task, model, flags, folder / "out")


@pytest.mark.parametrize("kind", ODD)
def test_the_page_shows_what_the_task_says_and_no_kept_column_in_its_place(
    plain: Plain, kind: str, tmp_path: Path
) -> None:
    names, output = plain.names, tmp_path / "out"
    source = parquet(tmp_path / "in", **dict.fromkeys(names, ODD[kind]))
    assert run_here(source, output, plain.task, plain.model, keep=tuple(names), **plain.flags) == 0
    shown, alone = text_of(output), text_of(plain.output)
    ids = [part.partition('"')[0] for part in shown.split('<section id="')[1:]]
    assert ids == [part.partition('"')[0] for part in alone.split('<section id="')[1:]]
    assert [f"<dt>{page_name(name, names)}</dt>" in shown for name in names] == [kind != "list"] * len(names)


def test_every_column_that_a_section_reads_is_a_tasks() -> None:
    assert set(page.SAMPLED) <= TASKS


def test_no_name_of_a_file_is_that_of_another_column_of_the_page() -> None:
    kept = ["source", "source (column)", "classes", "classes (column)", "cls"]
    assert len({"source", "classes", *(page_name(name, kept) for name in kept)}) == len(kept) + 2


def test_a_list_with_a_column_called_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "l.csv").write_text("uri,source\na.png,scanner\n")
    assert run_here(tmp_path / "l.csv", tmp_path / "out", keep=("source",)) == 0
    assert "<dt>source (column)</dt><dd>scanner</dd>" in text_of(tmp_path / "out")


def test_a_truth_may_be_called_as_answers_are(tmp_path: Path) -> None:
    first = parquet(tmp_path / "in")
    assert run_here(first, tmp_path / "plain") == 0
    said = [found[0] for found in rows(tmp_path / "plain")["labels"].to_pylist()]
    source = parquet(tmp_path / "more", classes=[*said[:3], "none"], mask=[b"x"] * IMAGES)
    assert run_here(source, tmp_path / "out", keep=("classes", "mask")) == 0
    assert "<small>3 of 4</small>" in text_of(tmp_path / "out", truth="classes")
    found = evaluate(str(tmp_path / "out"), "classes")
    assert isinstance(found, Accuracy)
    assert (found.images, found.top1) == (4, 3)


def test_evaluation_goes_by_what_the_task_says(tmp_path: Path) -> None:
    truth = [to_png(np.full((SIDE, SIDE), number, np.uint8), [(0, 0, 0)]) for number in range(IMAGES)]
    columns: dict[str, list[Any]] = {"labels": ["a"] * IMAGES, "scores": [0.5] * IMAGES}
    source = parquet(tmp_path / "in", truth=truth, mask=truth, **columns)
    keep = ("labels", "scores", "truth")
    assert run_here(source, tmp_path / "masks", "segment", DATA / "digits-seg/model", keep=keep) == 0
    found = evaluate(str(tmp_path / "masks"), "truth")
    assert isinstance(found, Overlap)
    assert found.images == IMAGES
    assert run_here(source, tmp_path / "vectors", "embed", keep=("labels", "scores", "mask")) == 0
    with pytest.raises(ConfigError, match="vectors holds neither labels nor masks"):
        evaluate(str(tmp_path / "vectors"), "labels")
    assert isinstance(compare(str(tmp_path / "vectors"), str(tmp_path / "vectors")).difference, Vectors)


def test_only_masks_of_the_task_are_pictures_in_a_copy(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in", mask=[b"no picture"] * IMAGES)
    assert run_here(source, tmp_path / "out", "brightness", keep=("mask",)) == 0
    compact(str(tmp_path / "out"), str(tmp_path / "copy"), 10, images=True)
    copy = pq.read_table(tmp_path / "copy")
    assert copy["mask"].to_pylist() == [b"no picture"] * IMAGES
    assert pa.types.is_struct(copy.schema.field("image").type)
