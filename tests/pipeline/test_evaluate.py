"""Masks next to a kept truth that is none, or not all there."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.compare import compare
from pipeline.errors import ConfigError
from pipeline.evaluate import Accuracy, Overlap, evaluate
from tests.flow import make_tar, png, png_header, run_here
from tests.helpers import DATA, rows, run_job

SIDE = 32


def picture(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    into = io.BytesIO()
    Image.fromarray(pixels).save(into, kind)
    return into.getvalue()


TRUTHS = {
    "ids.png": picture(np.zeros((SIDE, SIDE), np.uint8)),
    "ignored.png": picture(np.full((SIDE, SIDE), 255, np.uint8)),
    "deep.png": picture(np.full((SIDE, SIDE), 65535, np.uint16)),
    "colours.png": picture(np.zeros((SIDE, SIDE, 3), np.uint8)),
    "turned.png": picture(np.zeros((SIDE // 2, SIDE * 2), np.uint8)),
    "huge.png": png_header(20_000, 20_000),
    "photo.jpg": picture(np.zeros((SIDE, SIDE), np.uint8), "JPEG"),
    "cut.png": picture(np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE))[:60],
    "cls": b"3",
}


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of a sample each, of which the second has no truth."""
    folder = tmp_path_factory.mktemp("masks")
    first = [("a.png", png(1, (SIDE, SIDE))), *((f"a.{name}", data) for name, data in TRUTHS.items())]
    make_tar(folder / "in/s.tar", [*first, ("b.png", png(2, (SIDE, SIDE)))])
    flags = {"keep": tuple(TRUTHS), "image_column": "png"}
    assert run_here(folder / "in", folder / "out", "segment", DATA / "digits-seg/model", **flags) == 0
    return folder / "out"


def test_only_rows_with_a_truth_count(masks: Path) -> None:
    found = evaluate(str(masks), "ids.png")
    assert isinstance(found, Overlap)
    assert found.images == 1
    assert 0 <= found.mean_iou <= found.pixel_accuracy <= 1


@pytest.mark.parametrize(
    ("truth", "said"),
    [
        ("cls", "--truth cls: a column of string; of masks the truth is a column of PNG files"),
        ("photo.jpg", r"--truth photo.jpg of \S+/s.tar#a.png: it is no PNG, or damaged; of masks"),
        ("cut.png", "it is no PNG, or damaged"),
        ("colours.png", "it is a picture of colours, not of class ids; of masks"),
        ("deep.png", r"s.tar#a.png: class 65,535 is no class; is it --ignore 65535\?"),
        ("turned.png", "mask and truth are 32 x 32 and 64 x 16, and must have the same size"),
        ("huge.png", "mask and truth are 32 x 32 and 20000 x 20000, and must have the same size"),
        ("ignored.png", "--truth ignored.png: no image has an answer and a true class other than --ignore 255"),
    ],
)
def test_a_truth_that_masks_cannot_be_compared_with(masks: Path, truth: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        evaluate(str(masks), truth)


def test_labels_without_any_truth(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/s.tar", [("a.png", b"cut"), ("a.cls", b"3"), ("b.png", png(2))])
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1.0, keep=("cls",)) == 0
    with pytest.raises(ConfigError, match="--truth cls: no image has both an answer and a truth"):
        evaluate(str(tmp_path / "out"), "cls")


@pytest.mark.parametrize(("top_k", "said"), [(1, "top-1 100.00%"), (3, "top-1 100.00%, top-3 100.00%")])
def test_only_answers_that_are_there_are_counted(top_k: int, said: str, tmp_path: Path) -> None:
    assert run_here(DATA / "digits/shards", tmp_path / "out", limit=3, top_k=top_k, keep=("cls",)) == 0
    assert str(evaluate(str(tmp_path / "out"), "cls")) == f"3 of 3 right: {said}"


def test_a_folder_of_others(masks: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for span in (masks / "data").glob("*.parquet"):
        (tmp_path / "data" / span.name).write_bytes(span.read_bytes())
    for other in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match=f"{other} is no output of these jobs: it has no _run.json of theirs"):
            compare(str(masks), str(other))


def test_names_that_are_other_classes_ids_are_names(tmp_path: Path) -> None:
    """As where folders "0" to "10" are sorted as text: "10" is the third class, and "2" the fourth."""
    model = shutil.copytree(DATA / "digits/model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    labels = {str(number): str((number + 1) % 10) for number in range(10)}
    (model / "config.json").write_text(json.dumps({**config, "id2label": labels, "label2id": {}}))
    source = DATA / "digits/shards"
    assert run_here(source, tmp_path / "out", "label", model, keep=("cls",), top_k=1) == 0
    said = rows(tmp_path / "out").to_pylist()
    right = sum(row["labels"][0] == row["cls"] for row in said)
    found = evaluate(str(tmp_path / "out"), "cls")
    assert isinstance(found, Accuracy)
    assert found.top1 == right < sum(str(row["label_ids"][0]) == row["cls"] for row in said)
    run_job("report.py", tmp_path / "out", "--truth", "cls", code=0)
    assert f"{right} of 360" in (tmp_path / "out/report.html").read_text()
