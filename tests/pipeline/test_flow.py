"""A run from source to Parquet, again, and with a gap: what a user sees in the output."""

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, tree_bytes
from tests.outputs import newest_report


def stamps(output: Path) -> dict[str, int]:
    """Finished files and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "data").iterdir()}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("labelled") / "out"
    assert run_here(DIGITS / "shards", output, keep=("cls",)) == 0
    return output


def test_the_digits_get_the_labels_the_reference_gives(labelled: Path) -> None:
    table = rows(labelled)
    first = [labels[0] for labels in table["labels"].to_pylist()]
    assert sum(a == b for a, b in zip(first, table["cls"].to_pylist(), strict=True)) == 357


def test_columns_come_in_the_promised_order(labelled: Path) -> None:
    names = ["uri", "key", "status", "error", "width", "height", "label_ids", "labels", "scores", "cls"]
    assert rows(labelled).schema.names == names


def test_a_uri_names_shard_and_member(labelled: Path) -> None:
    assert rows(labelled)["uri"][0].as_py() == f"{DIGITS}/shards/digits-00000.tar#0039.png"


def test_the_output_is_laid_out_as_promised(labelled: Path) -> None:
    assert {path.name for path in labelled.iterdir()} == {"_run.json", "plan", "data", "runs", "_SUCCESS"}


def test_success_names_a_run_whose_audit_is_green(labelled: Path) -> None:
    run = json.loads((labelled / "_SUCCESS").read_text())["run"]
    report = json.loads((labelled / "runs" / f"{run}.json").read_text())
    assert report["audit"]["planned"] == report["audit"]["ok"] == 360
    assert report["audit"]["missing"] == report["audit"]["duplicates"] == 0


def test_the_same_command_again_does_nothing(labelled: Path) -> None:
    before, written = tree_bytes(labelled / "data"), stamps(labelled)
    assert run_here(DIGITS / "shards", labelled, keep=("cls",)) == 0
    assert tree_bytes(labelled / "data") == before
    assert stamps(labelled) == written


def test_a_deleted_span_comes_back_byte_for_byte_and_no_other_is_touched(labelled: Path) -> None:
    before, written = tree_bytes(labelled / "data"), stamps(labelled)
    gone = sorted(written)[4]
    (labelled / "data" / gone).unlink()
    assert run_here(DIGITS / "shards", labelled, keep=("cls",)) == 0
    assert tree_bytes(labelled / "data") == before
    assert {name for name, stamp in stamps(labelled).items() if stamp != written[name]} == {gone}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"keep": ("cls",), "top_k": 3}, "top_k = 5, this command has 3"),
        ({}, "keep"),
        ({"keep": ("cls",), "span_size": 16}, "span_size = auto, this command has 16"),
    ],
    ids=["task flag", "keep", "span size"],
)
def test_other_settings_on_the_same_output_are_refused(labelled: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run_here(DIGITS / "shards", labelled, **flags)


@pytest.fixture(scope="module")
def partly_bad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a source of two good images and four bad ones, `in`, and its output, `out`."""
    folder = tmp_path_factory.mktemp("bad")
    images = {"a": png(10), "b": b"", "c": b"not an image", "d": png(20)[:45], "e": png(30), "f": png(0, (300, 300))}
    (folder / "in").mkdir()
    for name, data in images.items():
        (folder / "in" / f"{name}.png").write_bytes(data)
    assert run_here(folder / "in", folder / "out", max_failed=1.0, max_pixels=80_000) == 0
    return folder


def test_bad_images_are_rows_beside_good_ones(partly_bad: Path) -> None:
    table = rows(partly_bad / "out")
    found = dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))
    assert found == {
        "a.png": "ok", "b.png": "decode_error", "c.png": "decode_error", "d.png": "decode_error",
        "e.png": "ok", "f.png": "too_large",
    }  # fmt: skip


def test_a_bad_image_says_why(partly_bad: Path) -> None:
    assert rows(partly_bad / "out")["error"].to_pylist()[1:3] == [
        "the file is empty",
        "not an image that Pillow knows (it begins with 6e6f7420616e2069)",
    ]


def test_answers_are_null_unless_ok(partly_bad: Path) -> None:
    missing = [scores is None for scores in rows(partly_bad / "out")["scores"].to_pylist()]
    assert missing == [False, True, True, True, False, True]


def test_a_run_with_nothing_to_do_still_judges_the_failures(partly_bad: Path) -> None:
    assert run_here(partly_bad / "in", partly_bad / "out", max_failed=0.5) == 3
    assert (partly_bad / "out/_SUCCESS").exists()  # of the run before; this one had nothing to do


def test_files_open_alike_whatever_happened_to_their_images(partly_bad: Path, tmp_path: Path) -> None:
    (tmp_path / "in.png").write_bytes(b"")
    assert run_here(tmp_path / "in.png", tmp_path / "out", max_failed=1) == 0
    assert rows(tmp_path / "out").schema == rows(partly_bad / "out").schema


@pytest.fixture
def one_failed(tmp_path: Path) -> Path:
    """A folder with a source of three images, `in`, and an output in which one was too large, `out`."""
    (tmp_path / "in").mkdir()
    for name, image in (("a", png(10)), ("b", png(0, (300, 300))), ("c", png(30))):
        (tmp_path / f"in/{name}.png").write_bytes(image)
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", max_pixels=80_000) == 3
    return tmp_path


def test_too_many_failures_are_no_success(one_failed: Path) -> None:
    assert not (one_failed / "out/_SUCCESS").exists()


def test_failed_rows_alone_are_done_again(one_failed: Path) -> None:
    assert run_here(one_failed / "in", one_failed / "out", "brightness", retry_failed=True) == 0
    assert set(rows(one_failed / "out")["status"].to_pylist()) == {"ok"}
    assert json.loads(newest_report(one_failed / "out").read_text())["images"]["done"] == 1


def test_rows_done_again_are_those_of_a_run_without_failures(one_failed: Path) -> None:
    assert run_here(one_failed / "in", one_failed / "out", "brightness", retry_failed=True) == 0
    assert run_here(one_failed / "in", one_failed / "fresh", "brightness") == 0
    assert rows(one_failed / "out").equals(rows(one_failed / "fresh"))


@pytest.mark.parametrize("name", ["shard-1", "part-000000.parquet", "shard-a.0-00000000-2.json"])
def test_an_output_may_be_called_like_its_own_files(tmp_path: Path, name: str) -> None:
    make_tar(tmp_path / "in/a.tar", [("a.png", png(1)), ("b.png", png(2))])
    for _ in range(2):
        assert run_here(tmp_path / "in", tmp_path / name / "plan", "brightness") == 0


def test_a_limit_takes_the_first_images_and_no_more(tmp_path: Path) -> None:
    for name in "ab":
        make_tar(tmp_path / f"in/{name}.tar", [(f"{name}{i:02d}.png", png(i)) for i in range(40)])
    wanted = [f"a{i:02d}" for i in range(40)] + [f"b{i:02d}" for i in range(10)]
    for _ in range(2):  # also when all of them are finished
        assert run_here(tmp_path / "in", tmp_path / "out", "brightness", limit=50, span_size=32) == 0
        assert sorted(rows(tmp_path / "out")["key"].to_pylist()) == wanted


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """A folder with a tar in which a name comes three times, `in`, and its output, `out`."""
    names = ["a.png", "b.png", "a.png", "a.cls", "a.png"]
    make_tar(tmp_path / "in/s.tar", [(name, b"7" if name == "a.cls" else png(i)) for i, name in enumerate(names)])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", span_size=2) == 0
    return tmp_path


def test_repeated_member_names_stay_apart(repeated: Path) -> None:
    names = [uri.split("#")[1] for uri in rows(repeated / "out")["uri"].to_pylist()]
    assert sorted(names) == ["a.png", "a.png~2", "a.png~3", "b.png"]


def test_repeated_member_names_are_counted_on_when_a_later_span_is_rebuilt(repeated: Path) -> None:
    before = tree_bytes(repeated / "out/data")
    sorted((repeated / "out/data").iterdir())[1].unlink()
    assert run_here(repeated / "in", repeated / "out", "brightness") == 0
    assert tree_bytes(repeated / "out/data") == before


@pytest.fixture(params=[540, 0], ids=["middle of a member", "between members"])
def cut_tar(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A folder with a tar that is cut off behind its fifth image, `in/s.tar`, and its output, `out`."""
    path = make_tar(tmp_path / "in/s.tar", [(f"{i}.png", png(i)) for i in range(10)])
    path.write_bytes(path.read_bytes()[: 1024 * 5 + request.param])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness") == 3
    return tmp_path


def test_a_cut_tar_gives_its_images_and_a_row_that_says_so(cut_tar: Path) -> None:
    table = rows(cut_tar / "out")
    assert table["status"].to_pylist().count("ok") == 5
    assert "decode_error" in table["status"].to_pylist()
    assert table["uri"][0].as_py() == str(cut_tar / "in/s.tar")


def test_a_cut_tar_is_judged_alike_when_it_is_finished(cut_tar: Path) -> None:
    assert run_here(cut_tar / "in", cut_tar / "out", "brightness") == 3


@pytest.mark.parametrize("span_size", [4, 3], ids=["the last span begins in the sample", "the last row alone"])
def test_a_cut_sample_keeps_its_complete_images(span_size: int, tmp_path: Path) -> None:
    endings = ("png", "jpg", "webp", "gif", "bmp")
    path = make_tar(tmp_path / "in/s.tar", [(f"{key}.{ending}", png(1)) for key in "ab" for ending in endings])
    path.write_bytes(path.read_bytes()[: 1024 * 9 + 540])
    for _ in range(2):
        assert run_here(tmp_path / "in", tmp_path / "out", "brightness", max_failed=1.0, span_size=span_size) == 0
    before = tree_bytes(tmp_path / "out")
    table = rows(tmp_path / "out")
    whole = [f"{path}#{key}.{ending}" for key in "ab" for ending in endings][:9]
    assert table["uri"].to_pylist() == [str(path), *sorted(whole)]
    assert table["status"].to_pylist() == ["decode_error", *["ok"] * 9]
    for file in (tmp_path / "out/data").iterdir():
        file.unlink()
        assert run_here(tmp_path / "in", tmp_path / "out", "brightness", max_failed=1.0, span_size=span_size) == 0
        after = tree_bytes(tmp_path / "out")
        assert {name: after[name] for name in before if name.startswith(("data", "plan"))} == {
            name: data for name, data in before.items() if name.startswith(("data", "plan"))
        }


def test_a_link_in_a_tar_is_a_row_with_a_reason(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        link = tarfile.TarInfo("../../etc/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert run_here(tmp_path / "s.tar", tmp_path / "out", "brightness", max_failed=1) == 0
    table = rows(tmp_path / "out")
    assert table["status"].to_pylist() == ["decode_error"]
    assert "a link" in table["error"][0].as_py()


def test_long_absolute_names_in_a_tar_are_images_and_other_members_are_none(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", [("/abs/" + "long" * 60 + ".png", png(1)), ("no-image.txt", b"x")])
    assert run_here(tmp_path / "t.tar", tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out")["status"].to_pylist() == ["ok"]
