"""Kept columns that are called as answers are: a task is known by the columns that it adds, whatever a source has."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.compare import Vectors, compare
from pipeline.errors import ConfigError
from pipeline.evaluate import Overlap, evaluate
from pipeline.masks import to_png
from tests.flow import png, run_here
from tests.helpers import DATA
from tests.outputs import newest_report

SIDE, IMAGES = 32, 4
# A value of each kind that is none of what a task says under that name.
ODD: dict[str, list[Any]] = {"number": [1, 2, 3, None], "word": ["a", "b", None, "d"], "list": [[1], [2], [], [3]]}


def parquet(folder: Path, **columns: list[Any]) -> Path:
    folder.mkdir()
    images = [png(50 * number, (SIDE, SIDE)) for number in range(IMAGES)]
    pq.write_table(pa.table({"image": images, **columns}), folder / "a.parquet")
    return folder


def first_labels(output: Path) -> object:
    return json.loads(newest_report(output).read_text())["first_labels"]


@pytest.mark.parametrize("kind", ODD)
def test_a_run_counts_no_kept_column_as_labels(kind: str, tmp_path: Path) -> None:
    source = parquet(tmp_path / "in", labels=ODD[kind])
    assert run_here(source, tmp_path / "out", "embed", keep=("labels",)) == 0
    assert first_labels(tmp_path / "out") == {}


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
