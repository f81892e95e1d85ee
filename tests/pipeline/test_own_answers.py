"""A task of one's own may call its columns as ours are called, and mean something else by them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest

from beit_core import ModelCard
from pipeline.compare import compare
from pipeline.errors import ConfigError
from pipeline.evaluate import evaluate
from pipeline.page import page
from pipeline.task import Batch, Columns
from tests import flow
from tests.flow import Brightness, png, run_here
from tests.outputs import newest_report

NUMBERS, WORDS = pa.list_(pa.float32()), pa.list_(pa.string())
TYPES = {"labels": pa.int32(), "scores": pa.float32(), "embedding": NUMBERS, "mask": pa.string(), "classes": WORDS}
TYPES |= {"tokens": pa.string(), "loss": pa.float32()}


@dataclass(frozen=True)
class Own(Brightness):
    name: ClassVar[str] = "own"
    types: ClassVar[dict[str, pa.DataType]] = TYPES

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return self.types

    def predict(self, model: Any, batch: Batch) -> Columns:  # noqa: ARG002 - as above
        count = len(batch.pixels)
        answers: Columns = {"labels": [7] * count, "scores": [0.4375] * count, "mask": ["rle"] * count}
        answers |= {"embedding": [[1.0] * number for number in range(count)], "classes": [["cat"]] * count}
        return {**answers, "tokens": ["a b"] * count, "loss": [2.5] * count}


class Encoded(Own):
    types: ClassVar[dict[str, pa.DataType]] = {"mask": pa.binary()}

    def predict(self, model: Any, batch: Batch) -> Columns:  # noqa: ARG002 - as above
        return {"mask": [b"rle"] * len(batch.pixels)}


def test_columns_are_ours_by_their_types_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs, pages and comparisons ended in tracebacks, or showed the letters of a word as labels."""
    monkeypatch.setitem(flow.TASKS, "own", Own)
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    output = tmp_path.with_name(f"{tmp_path.name}-out")
    assert run_here(tmp_path, output, "own") == 0
    assert json.loads(newest_report(output).read_text())["first_labels"] == {}
    text = Path(page.write(str(output))).read_text()
    assert '<section id="images"' in text
    assert '<section id="labels"' not in text
    shown = {"labels": "7", "scores": "0.4375", "mask": "rle", "tokens": "a b", "loss": "2.5"}
    for name, value in shown.items():
        assert f"<dt>{name} (column)</dt><dd>{value}</dd>" in text
    with pytest.raises(ConfigError, match="neither labels, masks nor embeddings in common"):
        compare(str(output), str(output))
    with pytest.raises(ConfigError, match="holds neither labels nor masks"):
        evaluate(str(output), "cls")


def test_masks_in_another_encoding_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flow.TASKS, "own", Encoded)
    (tmp_path / "0.png").write_bytes(png(0))
    output = str(tmp_path.with_name(f"{tmp_path.name}-out"))
    assert run_here(tmp_path, output, "own") == 0
    with pytest.raises(ConfigError, match=r"the masks of .*/0.png cannot be compared: it is no PNG, or damaged"):
        compare(output, output)
