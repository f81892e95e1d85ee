"""What of a task an output is bound to: its flags and its columns, as they were when the output was begun."""

import json
from dataclasses import dataclass, make_dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from label import Label

from pipeline.config import RunConfig
from pipeline.errors import ConfigError
from pipeline.run import run
from pipeline.task import Task
from tests.flow import DIGITS, Brightness
from tests.helpers import rows, tree_bytes

TYPES = {"brightness": pa.float32()}


@dataclass(frozen=True)
class Shaped(Brightness):
    """Brightness under columns that differ from one edition of the task to the next."""

    def columns(self, card: Any) -> dict[str, pa.DataType]:  # noqa: ARG002 - as in every edition
        return EDITION

    def predict(self, model: Any, batch: Any) -> dict[str, Any]:
        return dict.fromkeys(EDITION, super().predict(model, batch)["brightness"].double())


EDITION: dict[str, pa.DataType] = TYPES


def go(output: Path, task: Task, limit: int) -> int:
    return run(RunConfig((f"{DIGITS}/shards",), str(output), f"{DIGITS}/model", local=True, limit=limit), task)


def edition(monkeypatch: pytest.MonkeyPatch, columns: dict[str, pa.DataType]) -> Task:
    monkeypatch.setitem(globals(), "EDITION", columns)
    return Shaped()


def with_gain(gain: float) -> Task:
    """Brightness as an edition has it that knows one more flag."""
    kind: Any = make_dataclass("Brighter", [("gain", float, 1.0)], bases=(Brightness,), frozen=True)
    task: Task = kind(gain=gain)
    return task


def test_a_flag_that_came_later_counts_at_its_default_and_is_refused_otherwise(tmp_path: Path) -> None:
    assert go(tmp_path, Brightness(), limit=3) == 0
    assert go(tmp_path, with_gain(1.0), limit=6) == 0
    with pytest.raises(ConfigError, match=r"belongs to a run with gain = nothing, this command has 2\.0: "):
        go(tmp_path, with_gain(2.0), limit=9)
    assert len(rows(tmp_path)) == 6


def test_a_flag_that_is_gone_is_refused(tmp_path: Path) -> None:
    assert go(tmp_path, with_gain(1.0), limit=3) == 0
    with pytest.raises(ConfigError, match=r"belongs to a run with gain = 1\.0, this command has nothing: "):
        go(tmp_path, Brightness(), limit=6)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"brightness": pa.float64()}, "a run with column brightness = float, this command has double: "),
        ({**TYPES, "again": pa.float32()}, "a run with column again = nothing, this command has float: "),
        ({"light": pa.float32()}, "a run with column light = nothing, this command has float: "),
    ],
    ids=["another type", "one more", "another name"],
)
def test_other_columns_are_refused(
    columns: dict[str, pa.DataType], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert go(tmp_path, edition(monkeypatch, TYPES), limit=3) == 0
    before = tree_bytes(tmp_path)
    with pytest.raises(ConfigError, match=said):
        go(tmp_path, edition(monkeypatch, columns), limit=6)
    assert tree_bytes(tmp_path) == before


def test_of_a_flag_that_decides_on_columns_the_flag_is_named(tmp_path: Path) -> None:
    assert go(tmp_path, Label(), limit=3) == 0
    with pytest.raises(ConfigError, match="a run with with_embedding = false, this command has true: "):
        go(tmp_path, Label(with_embedding=True), limit=6)


def test_columns_in_another_order_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = {**TYPES, "again": pa.float64()}
    assert go(tmp_path, edition(monkeypatch, both), limit=3) == 0
    with pytest.raises(ConfigError, match="has the columns brightness, again, this command again, brightness: "):
        go(tmp_path, edition(monkeypatch, dict(reversed(both.items()))), limit=6)


def test_an_output_that_was_begun_before_columns_were_bound_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert go(tmp_path, edition(monkeypatch, TYPES), limit=3) == 0
    bound = json.loads((tmp_path / "_run.json").read_text())
    assert bound.pop("columns") == {"brightness": "float"}
    (tmp_path / "_run.json").write_text(json.dumps(bound))
    assert go(tmp_path, edition(monkeypatch, TYPES), limit=6) == 0


def test_a_column_that_every_output_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="the task has a column width, which every output has: call it otherwise"):
        go(tmp_path / "out", edition(monkeypatch, {"width": pa.int32()}), limit=3)
    assert not (tmp_path / "out").exists()
