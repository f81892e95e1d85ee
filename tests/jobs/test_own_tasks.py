"""What a task of one's own may have: fields of any kind that a flag can say."""

import json
from pathlib import Path

import pytest

from tests.flow import DIGITS, png
from tests.helpers import rows
from tests.jobs.test_installed import beit
from tests.jobs.test_recipes import README, the_one

FIELDS = """
    part: float = field(default=0.5, metadata={"help": "50% of it (a half)"})
    turned: bool = True
    sides: tuple[int, ...] = (8, 16)
    step: Literal[1, 2] = 1
    unit: str = field(default="px", metadata={"choices": ["px", "%"]})
    about: str | None = None
"""


def own_task(folder: Path, fields: str) -> Path:
    """The task of README with more fields, and an image beside it."""
    text = the_one(README, "python", "class Brightness").replace("import ClassVar", "import ClassVar, Literal")
    text = text.replace("import dataclass", "import dataclass, field").replace(
        '"brightness"\n', f'"brightness"{fields}'
    )
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in/a.png").write_bytes(png(255))
    file = folder / "own.py"
    file.write_text(text)
    return file


def test_fields_of_every_kind_are_flags_with_defaults(tmp_path: Path) -> None:
    own = own_task(tmp_path, FIELDS)
    listed = beit(own, "--help").stdout
    lines = ["50% of it (a half)", "--turned, --no-turned (on)", "--sides COLUMN [COLUMN ...] (8 16)"]
    assert all(line in " ".join(listed.split()) for line in lines)
    flags = ["--local", "--input", tmp_path / "in", "--model", DIGITS / "model", "--output"]
    beit(own, *flags, tmp_path / "plain")
    more = ["--part", 0.25, "--no-turned", "--sides", 4, "--sides", 5, 6, "--step", 2, "--unit", "%", "--about", "it"]
    beit(own, *flags, tmp_path / "given", *more)
    bound = [json.loads((tmp_path / name / "_run.json").read_text())["settings"] for name in ("plain", "given")]
    assert bound == [
        {"part": 0.5, "turned": True, "sides": [8, 16], "step": 1, "unit": "px", "about": None},
        {"part": 0.25, "turned": False, "sides": [4, 5, 6], "step": 2, "unit": "%", "about": "it"},
    ]


@pytest.mark.parametrize("kind", ["list[int]", "dict", "tuple[dict, ...]"])
def test_a_field_that_no_flag_can_say_is_refused(kind: str, tmp_path: Path) -> None:
    said = beit(own_task(tmp_path, f"\n    sides: {kind} = ()\n"), "--help", code=2).stderr
    assert "task brightness: its field sides cannot be a flag: make it an int, float, str" in said


def test_answers_are_numpys_when_they_are_encoded(tmp_path: Path) -> None:
    own = own_task(tmp_path, "\n")
    text = (
        own.read_text()
        .replace("import Task\n", "import Encoded, Task\n")
        .replace("pa.float32()}", "pa.list_(pa.int8())}")
    )
    means = "batch.pixels.float().mean((2, 3))"
    encode = """
    def encode(self, card, columns):
        halves = columns["mean"].astype("float16")
        return Encoded({"brightness": [row.astype("int8")[:2] for row in halves + columns["means"]]})
"""
    text = text.replace(
        '{"brightness": batch.pixels.float().mean((1, 2, 3))}', f'{{"mean": {means}, "means": [*{means}]}}'
    )
    own.write_text(text.replace("\n\nif __name__", f"{encode}\n\nif __name__"))
    flags = ["--local", "--input", tmp_path / "in", "--model", DIGITS / "model", "--output", tmp_path / "out"]
    beit(own, *flags)
    assert rows(tmp_path / "out")["brightness"].to_pylist() == [[2, 2]]


@pytest.mark.parametrize(
    ("answer", "count"),
    [("mean((2, 3)).flatten()", "48"), ("mean((1, 2, 3))[1:]", "15"), ("mean()", "no")],
)
def test_a_column_without_one_entry_per_image_is_refused(answer: str, count: str, tmp_path: Path) -> None:
    """Images would have got the answers of others."""
    own = own_task(tmp_path, "\n")
    own.write_text(own.read_text().replace("mean((1, 2, 3))", answer))
    flags = ["--local", "--input", tmp_path / "in", "--model", DIGITS / "model", "--output", tmp_path / "out"]
    said = beit(own, *flags, "--batch-size", 16, code=1).stderr
    assert f"task brightness answers {count} entries as brightness of a batch of 16 images" in said
