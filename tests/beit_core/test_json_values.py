"""No value of a model folder's JSON files gives a traceback, and none out of range is taken in silence."""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from beit_core import CheckpointError, Choices, convert, load_card
from beit_core.schema import CARD, CONFIG, DVAE_CONFIG, INDEX, PROCESSOR, Kind
from tests.helpers import run_job
from tests.models import save_dvae

WRONG: dict[str, object] = {
    "null": None,
    "text": "wide",
    "empty text": "",
    "a list": ["a", 1],
    "an empty list": [],
    "an object": {"a": 1},
    "negative": -3,
    "zero": 0,
    "huge": 10**15,
    "a fraction": 0.37,
    "not a number": float("nan"),
    "endless": float("inf"),
    "true": True,
    "nested": [[[{}]]],
}
FILES: dict[str, Mapping[str, Kind]] = {"config.json": CONFIG, "preprocessor_config.json": PROCESSOR, "card.json": CARD}
CASES = 5_000


@pytest.fixture
def folder(tmp_path: Path, tiny_model: Callable[..., Path]) -> Path:
    """A converted segmentation model: the kind of folder that uses the most fields."""
    convert(tiny_model("segmenter"), tmp_path / "model")
    return tmp_path / "model"


def pairs() -> Iterator[tuple[str, str, object]]:
    for file, kinds in FILES.items():
        yield from ((file, field, value) for field in kinds for value in WRONG.values())


def outcome(folder: Path) -> str:
    """What loading the card says, "" if nothing; anything but CheckpointError fails the test."""
    try:
        load_card(folder)
    except CheckpointError as error:
        return str(error)
    return ""


def test_every_field_with_every_wrong_value(folder: Path) -> None:
    refused = 0
    for file, field, value in pairs():
        path = folder / file
        right = path.read_text()
        path.write_text(json.dumps({**json.loads(right), field: value}))
        said = outcome(folder)
        if FILES[file][field].holds(value):
            assert "Traceback" not in said
        else:
            assert said.startswith(f"{path}: {field} is "), (file, field, value, said)
            assert "\n" not in said
            refused += 1
        path.write_text(right)
    print(f"{refused} wrong values refused by file, field and value")
    assert refused > 500


def corrupted(right: Mapping[str, object], kinds: Mapping[str, Kind], chance: random.Random) -> dict[str, object]:
    """The object with one to three fields dropped or replaced by values of other kinds or ranges."""
    changed = dict(right)
    for field in chance.sample(sorted(kinds), chance.randint(1, 3)):
        if chance.random() < 0.1:
            changed.pop(field, None)
            continue
        drawn = [*WRONG.values(), chance.randint(-5, 70_000), chance.uniform(-2, 2), [chance.randint(-9, 9)] * 4,
                 {"height": chance.randint(-1, 500), "width": chance.choice([None, 7, "x"])}]  # fmt: skip
        changed[field] = chance.choice(drawn)
    return changed


def test_five_thousand_wrong_files(folder: Path) -> None:
    chance, began, counts = random.Random(0), time.monotonic(), {"refused": 0, "accepted": 0}
    right = {file: (folder / file).read_text() for file in FILES}
    for _ in range(CASES):
        file = chance.choice(sorted(FILES))
        content = corrupted(json.loads(right[file]), FILES[file], chance)
        (folder / file).write_text(json.dumps(content))
        said = outcome(folder)
        out_of_range = [name for name, kind in FILES[file].items() if name in content and not kind.holds(content[name])]
        assert said or not out_of_range, f"{file} was accepted with {out_of_range}: {content}"
        counts["refused" if said else "accepted"] += 1
        (folder / file).write_text(right[file])
    print(f"{CASES} wrong files in {time.monotonic() - began:.0f} s: {counts}, 0 tracebacks")
    assert counts["refused"] > CASES // 2


def test_a_tokenizers_values_and_an_index(tmp_path: Path, folder: Path) -> None:
    dvae = save_dvae(tmp_path / "dvae")
    right = json.loads((dvae / "config.json").read_text())
    for field, kind in DVAE_CONFIG.items():
        for value in WRONG.values():
            (dvae / "config.json").write_text(json.dumps({**right, field: value}))
            assert kind.holds(value) or f"{field} is" in outcome(dvae)
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    for value in WRONG.values():
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": value}))
        said = outcome(folder)
        assert "weight_map is" in said or "names parts that are not next to it" in said
    assert INDEX["weight_map"].holds({"a": "b"})


def test_a_class_has_one_name(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model("classifier", num_labels=3), tmp_path / "model")
    right = json.loads((model / "config.json").read_text())
    for names, fits in (({"0": "a", "1": "b", "2": "c"}, True), ({"0": "a", "1": "b", "01": "c"}, False)):
        (model / "config.json").write_text(json.dumps({**right, "id2label": names}))
        said = outcome(model)
        assert not said if fits else "id2label is" in said


def test_files_with_a_byte_order_mark(folder: Path) -> None:
    for file in FILES:
        (folder / file).write_text((folder / file).read_text(), encoding="utf-8-sig")
    assert not outcome(folder)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\x00", "[" * 5000, '{"hidden_size": 1e999}'])
def test_files_that_are_no_objects(folder: Path, text: str) -> None:
    for file in FILES:
        right = (folder / file).read_text()
        (folder / file).write_text(text)
        said = outcome(folder)
        assert str(folder / file) in said or (text.startswith("{") and file != "config.json")
        (folder / file).write_text(right)


def test_the_job_says_it_in_one_sentence(folder: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.json"
    given.write_text('{"hidden_size": null, "architectures": ["BeitModel"]}')
    done = run_job("convert.py", folder, tmp_path / "new", "--model-config", given, code=2)
    assert f"{given}: hidden_size is null, not a whole number from 1 to 65536" in done.stderr
    assert "Traceback" not in done.stderr
    given.write_text('{"image_std": 0}')
    with pytest.raises(CheckpointError, match=f"{given}: image_std is 0, not a number above 0"):
        convert(folder, tmp_path / "new", Choices(processor=given))
    assert not (tmp_path / "new").exists()
