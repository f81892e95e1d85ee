"""Which classes a column of truth means: names or ids, in what types, and what an output knows of names."""

import json
import re
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.classes import ClassNames, id_of, word_of
from pipeline.errors import ConfigError
from pipeline.evaluate import Accuracy, evaluate
from pipeline.page import page
from tests.flow import DIGITS, run_here
from tests.helpers import rows
from tests.outputs import beginning

SHARD = min((DIGITS / "shards").glob("*.tar"))
MEMBERS = beginning(SHARD)
IMAGES = [data for name, data in MEMBERS if name.endswith(".png")]
DIGIT = [
    int(data) for name, data in MEMBERS if name.endswith(".cls")
]  # the class of each, all of which the model knows
SHIFTED = [f"{(id_ + 1) % 10}" for id_ in range(10)]  # names that are other classes' ids
FROM_ONE = [f"{id_ + 1}" for id_ in range(10)]


def named(folder: Path, names: list[str]) -> Path:
    """The digits' model, whose classes are called otherwise."""
    shutil.copytree(DIGITS / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": dict(enumerate(names)), "label2id": {}}))
    return folder


def labelled(
    folder: Path, truth: Any, model: Path = DIGITS / "model", images: list[bytes] = IMAGES, **more: Any
) -> Path:
    """An output whose kept column `cls` holds the truth."""
    source = folder / "in.parquet"
    pq.write_table(pa.table({"image": images, "cls": truth}), source)
    assert run_here(source, folder / "out", "label", model, keep=("cls",), **more) == 0
    return folder / "out"


def counted(output: Path) -> tuple[int, int]:
    """How many are right of how many, as evaluate and the page say."""
    found = evaluate(str(output), "cls")
    assert isinstance(found, Accuracy)
    text = Path(page.write(str(output), to=str(output / "page.html"))).read_text()
    assert f"<dt>right<small>{found.top1} of {found.images}</small></dt>" in text
    return found.top1, found.images


def cells(output: Path) -> tuple[int, int]:
    """How many rows lie on the diagonal of the page's matrix, and how many beside it."""
    text = (output / "page.html").read_text()
    right, wrong = (
        sum(map(int, re.findall(rf'<td class="n {kind}"[^>]*>(\d+)<', text))) for kind in ("right", "wrong")
    )
    return right, wrong


def without_names(output: Path) -> Path:
    """As if it had been begun before `_run.json` had them."""
    bound = json.loads((output / "_run.json").read_text())
    (output / "_run.json").write_text(json.dumps({name: value for name, value in bound.items() if name != "labels"}))
    return output


@pytest.mark.parametrize(
    "kind",
    [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.decimal128(5, 2), pa.string(),
     pa.large_string(), pa.dictionary(pa.int8(), pa.string())],
    ids=str,
)  # fmt: skip
def test_classes_are_whole_numbers_or_text_of_any_type(kind: pa.DataType, tmp_path: Path) -> None:
    """With a null pandas makes floats of ints."""
    is_text = pa.types.is_dictionary(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)
    truth = pa.array([f" {one}" if is_text else Decimal(one) if pa.types.is_decimal(kind) else one for one in DIGIT])
    truth = pa.concat_arrays([truth.cast(kind)[:-1], pa.nulls(1, kind)])
    assert counted(labelled(tmp_path, truth)) == (29, 29)


@pytest.mark.parametrize(
    "truth",
    [[["3"]] * 30, [{"id": 3}] * 30, pa.array([[("id", 3)]] * 30, pa.map_(pa.string(), pa.int64())),
     pa.array([3] * 30, pa.timestamp("s")), [True] * 30, [b"3"] * 30],
    ids=["list", "struct", "map", "timestamp", "bool", "binary"],
)  # fmt: skip
def test_other_types_hold_no_classes(truth: Any, tmp_path: Path) -> None:
    output = labelled(tmp_path, truth)
    kind = rows(output).schema.field("cls").type
    for refuse in (lambda: evaluate(str(output), "cls"), lambda: page.write(str(output), truth="cls")):
        with pytest.raises(ConfigError) as refused:
            refuse()
        assert f"--truth cls: a column of {kind}; of labels the truth is a column of names or ids" in str(refused.value)
    assert 'id="truth"' not in Path(page.write(str(output))).read_text()


def test_spaces_around_names_do_not_count(tmp_path: Path) -> None:
    names = [f" n{id_} " if id_ % 2 else f"n{id_}" for id_ in range(10)]
    truth = [f"n{(one + 1) % 10} " for one in DIGIT[:1]] + [f"n{one} " for one in DIGIT[1:]]
    output = labelled(tmp_path, truth, named(tmp_path / "model", names))
    assert counted(output) == (29, 30)
    assert cells(output) == (29, 1)


@pytest.mark.parametrize("top_k", [1, 5])
def test_a_name_that_never_is_an_answer_is_no_id(top_k: int, tmp_path: Path) -> None:
    """All answers are class 0, called 1; the truth is the class that is called 0."""
    images = [image for image, digit in zip(IMAGES, DIGIT, strict=True) if digit == 0]
    output = labelled(tmp_path, ["0"] * len(images), named(tmp_path / "model", SHIFTED), images, top_k=top_k)
    assert {found[0] for found in rows(output)["labels"].to_pylist()} == {"1"}
    assert counted(output) == (0, len(images))


@pytest.mark.parametrize("top_k", [1, 5])
def test_ids_of_classes_that_are_called_by_numbers(top_k: int, tmp_path: Path) -> None:
    output = labelled(tmp_path, DIGIT, named(tmp_path / "model", FROM_ONE), top_k=top_k)
    assert counted(output) == (30, 30)


@pytest.fixture
def cranes(tmp_path: Path) -> list[str]:
    """Names of which two classes have one, of the model `cranes` in the test's folder."""
    names = [*"abc", "crane", "e", "crane", *"ghij"]
    named(tmp_path / "cranes", names)
    return names


@pytest.mark.usefixtures("cranes")
def test_ids_tell_classes_of_one_name_apart(tmp_path: Path) -> None:
    wrong = [place for place, one in enumerate(DIGIT) if one == 3][:2]
    truth = [5 if place in wrong else one for place, one in enumerate(DIGIT)]
    output = labelled(tmp_path, truth, tmp_path / "cranes")
    assert counted(output) == (28, 30)
    assert cells(output) == (28, 2)
    text = (output / "page.html").read_text()
    assert '<th scope="row">crane (3)</th>' in text
    assert text.count('<p class="why">The truth, crane (5), ') == 2
    assert '<th scope="row">a</th>' in text


def test_a_name_of_two_classes_is_either(cranes: list[str], tmp_path: Path) -> None:
    truth = [cranes[(DIGIT[0] + 1) % 10], *(cranes[one] for one in DIGIT[1:])]
    output = labelled(tmp_path, truth, tmp_path / "cranes")
    assert counted(output) == (29, 30)
    assert cells(output) == (29, 1)
    assert "crane (" not in (output / "page.html").read_text()


def test_an_output_without_the_names_does_not_guess(tmp_path: Path) -> None:
    (tmp_path / "words").mkdir()
    words = named(tmp_path / "a", [f"n{id_}" for id_ in range(10)])
    assert counted(without_names(labelled(tmp_path / "words", DIGIT, words, top_k=1))) == (30, 30)
    output = without_names(labelled(tmp_path, DIGIT, named(tmp_path / "b", FROM_ONE), top_k=1))
    said = (
        "--truth cls: class 0 is called 1, and 0, as no answer is called, may be a name or an id: this output was begun"
    )
    for refuse in (lambda: evaluate(str(output), "cls"), lambda: page.write(str(output), truth="cls")):
        with pytest.raises(ConfigError, match=said):
            refuse()
    assert 'id="truth"' not in Path(page.write(str(output))).read_text()


@pytest.mark.parametrize(
    ("names", "words", "are_ids", "classes"),
    [
        ("cat dog", "0 1 1", True, 3),
        ("cat dog", "0 dog bird 2 1.5", True, 2),
        ("0 1 2", "0 1 2 3", False, 3),
        ("1 2 0", "0 1 2", False, 3),
        ("1 2 0", "1 2 77 -1", False, 2),
        ("1 2 3", "0 1 2", True, 3),
        ("1 2 3", "1 2 3", False, 3),
        ("1 2 3", "0 1 2 3", False, 3),
        ("00 01 02", "0 1 2", True, 3),
        ("10 20 other", "10 20 other", False, 3),
        ("10 20 other", "0 1.0 other", True, 3),
        ("cat dog", "bird fish", False, 0),
    ],
)
def test_a_column_is_read_in_one_way(names: str, words: str, are_ids: bool, classes: int) -> None:
    known = ClassNames(names.split())
    assert known.are_ids(words.split(), "cls") == are_ids
    assert sum(known.has(word, are_ids=are_ids) for word in words.split()) == classes


def test_a_value_as_a_word_and_as_an_id() -> None:
    values = [None, "", " ", float("nan"), 3, 3.0, -0.0, Decimal("7.00"), 2.5, float("inf"), " a b ", "7.0", "-1"]
    assert [word_of(value) for value in values] == [
        *("", "", "", "", "3", "3", "0", "7", "2.5", "inf", "a b", "7.0", "-1")
    ]
    assert [id_of(word) for word in ("3", "7.0", "7.5", "-1", "a", "9" * 5000)] == [3, 7, None, None, None, None]
