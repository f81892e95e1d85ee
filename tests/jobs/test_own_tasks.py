"""What a task of one's own may have: fields of any kind that a flag can say."""

import json
from pathlib import Path

import pytest

from tests.flow import DIGITS, png
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
