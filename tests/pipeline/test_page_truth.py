"""Labels on the page: against the truth, by class, by score."""

import re
from pathlib import Path

import pytest
from report import arguments, main

from pipeline.errors import ConfigError
from pipeline.output.place import Place
from pipeline.page import page, survey
from pipeline.page.parts import Row
from pipeline.page.survey import Survey, read_survey
from pipeline.page.truth import verdict, why
from tests.flow import DIGITS, make_tar, png, run_here
from tests.outputs import Examples, beginning

FIRST = min((DIGITS / "shards").glob("*.tar"))


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labels of 30 digits with their truth, of which the first three are turned wrong."""
    folder = tmp_path_factory.mktemp("judged")
    members = beginning(FIRST)
    truths = [place for place, (name, _) in enumerate(members) if name.endswith(".cls")]
    for place in truths[:3]:
        name, data = members[place]
        members[place] = (name, str((int(data) + 1) % 10).encode())
    make_tar(folder / "in/a.tar", members)
    assert run_here(folder / "in", folder / "out", keep=("cls",)) == 0
    return folder / "out"


def text_of(output: Path, **options: str) -> str:
    return Path(page.write(str(output), to=str(output / "page.html"), **options)).read_text()


def row(uri: str, labels: list[str], scores: list[float], **more: object) -> Row:
    ids = [int(name, 36) for name in labels]
    about = {"uri": uri, "status": "ok", "labels": labels, "label_ids": ids, "scores": scores}
    return Row(**about, **more)  # type: ignore[typeddict-item]


def test_the_page_says_how_many_are_right_and_shows_what_is_wrong(judged: Path) -> None:
    text = text_of(judged)
    assert re.search(r"<dt>right<small>27 of 30</small></dt><dd>90\.00 %<", text)
    assert "27 of all 30 images have the class in the column cls as their first label: 90.00 %." in text
    assert "3 wrong answers of 3" in text
    assert text.count('class="why"') == 3
    assert sum(int(number) for number in re.findall(r'<td class="n wrong"[^>]*>(\d+)</td>', text)) == 3
    assert text.count('data-wrong="1"') == 3


def test_a_truth_is_named_or_found(judged: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = judged / "named.html"
    assert main(arguments().parse_args([str(judged), "--truth", "cls", "--to", str(to)])) == 0
    assert "90.00 %" in to.read_text()
    with pytest.raises(ConfigError, match=r"no column class: run the job with --keep class; it has uri, .*cls"):
        main(arguments().parse_args([str(judged), "--truth", "class", "--to", str(to)]))
    assert "named.html" in capsys.readouterr().out


def test_without_a_truth_there_is_no_accuracy(examples: Examples, tmp_path: Path) -> None:
    text = text_of(examples.copy("label", tmp_path))
    assert 'id="truth"' not in text
    assert "<dt>right<" not in text


def test_a_found_column_that_holds_no_classes_is_no_truth() -> None:
    rows = [row(f"{n}", ["a", "b"], [0.9, 0.1], label=f"text {n}") for n in range(4)]
    assert verdict(Survey(rows, "label")) is None
    named = verdict(Survey(rows, "label", named=True))
    assert named is not None
    assert (named.right, named.accuracy) == (0, "0.00 %")


def test_truth_is_an_id_or_a_name_and_mistakes_come_with_a_reason() -> None:
    rows = [
        row("1", ["a", "b"], [0.9, 0.1], cls="10"),
        row("2", ["b", "a"], [0.8, 0.2], cls="a"),
        row("3", ["a", "b"], [0.95, 0.05], cls="c"),
        row("4", [], [], cls="b"),
        row("5", ["c"], [0.5], cls=None),
    ]
    found = verdict(Survey(rows, "cls"))
    assert found is not None
    assert (found.right, len(found.rows)) == (1, 4)
    assert [why(one) for one in found.wrong()] == [
        "The truth, c, is not among its best labels.",
        "The truth, a, came second with 20.0 %.",
        "No label above the threshold; it is b.",
    ]
    assert found.confusions() == [("a", "b", 1), ("b", "no label", 1), ("c", "a", 1)]


def test_many_classes_show_the_top_confusions() -> None:
    names = "abcdefghijklmnop"
    rows = [row(f"{n}", [names[n % 16], "q"], [0.9, 0.1], cls="a") for n in range(64)]
    text = str(page.accuracy.sections(page.Sample([], frozenset(), 1, 1, survey=Survey(rows, "cls")))[0])
    assert "a → b" in text
    assert "<table" not in text


def test_classes_have_pictures_and_scores_say_what_a_threshold_leaves(judged: Path) -> None:
    text = text_of(judged)
    classes = re.search(r'<section id="classes".*?</section>', text, re.DOTALL)
    scores = re.search(r'<section id="scores".*?</section>', text, re.DOTALL)
    assert classes is not None
    assert scores is not None
    shown = [part.count("<img") for part in classes[0].split("<li>")[1:]]
    assert max(shown) <= 4
    assert min(shown) >= 1
    assert re.search(r"from 0\.0</span>.*?<b>\d+ · 100 %</b>", scores[0])
    assert sum(int(found) for found in re.findall(r"<b>(\d+) · ", scores[0])) == 30


def test_a_survey_reads_all_of_a_small_output_and_some_of_a_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(12)])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", span_size=2) == 0
    found = read_survey(Place(str(tmp_path / "out")))
    assert (len(found.rows), found.whole, found.of(12)) == (12, True, "all 12 images")
    monkeypatch.setattr(survey, "FILES", 3)
    some = read_survey(Place(str(tmp_path / "out")))
    assert (len(some.rows), some.whole, some.of(6)) == (6, False, "a sample of 6 images")
    monkeypatch.setattr(survey, "ROWS", 3)
    assert len(read_survey(Place(str(tmp_path / "out"))).rows) == 3
