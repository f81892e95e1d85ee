"""Zips and compressed tars as a user meets them: the rows of the plain tar, resumed, kept, tried out and shown."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, tree_bytes

Members = list[tuple[str, bytes]]
MEMBERS: Members = [
    part for n in range(70) for part in ((f"d/{n:03d}.png", png(n)), (f"d/{n:03d}.cls", str(n % 10).encode()))
]


def make_tar_gz(path: Path, members: Members) -> Path:
    plain = make_tar(path.with_suffix(".plain"), members)
    path.write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
    plain.unlink()
    return path


def make_zip(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data)
    return path


MAKERS: dict[str, Callable[[Path, Members], Path]] = {"s.tar.gz": make_tar_gz, "s.tgz": make_tar_gz, "s.zip": make_zip}
each_kind = pytest.mark.parametrize("name", MAKERS)


def answers(output: Path) -> list[tuple[str, object, object]]:
    """Member, label and kept class of every row."""
    table = rows(output)
    names = [uri.partition("#")[2] for uri in table["uri"].to_pylist()]
    return list(zip(names, table["labels"].to_pylist(), table["cls"].to_pylist(), strict=True))


@each_kind
def test_an_archive_has_the_rows_of_the_plain_tar(tmp_path: Path, name: str) -> None:
    make_tar(tmp_path / "plain/s.tar", MEMBERS)
    MAKERS[name](tmp_path / "in" / name, MEMBERS)
    for source in ("plain", "in"):
        assert run_here(tmp_path / source, tmp_path / f"{source}-out", keep=("cls",), span_size=32) == 0
    assert answers(tmp_path / "in-out") == answers(tmp_path / "plain-out")
    assert len(answers(tmp_path / "in-out")) == 70


@each_kind
def test_missing_spans_come_back_and_no_image_is_decoded_twice(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / "in" / name, MEMBERS)
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), span_size=32) == 0
    whole = tree_bytes(tmp_path / "out/data")
    for gone in ("*-000000032.parquet", "*-000000064.parquet"):
        for file in (tmp_path / "out/data").glob(gone):
            file.unlink()
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), span_size=32) == 0
    assert tree_bytes(tmp_path / "out/data") == whole
    assert last_report(tmp_path / "out")["images"]["done"] == 38


@each_kind
def test_a_reader_that_died_before_the_end_is_continued(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path / "in" / name, MEMBERS)
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), span_size=32) == 0
    whole = tree_bytes(tmp_path / "out")
    for file in (tmp_path / "out/plan").glob("shard-*.json"):
        file.unlink()
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), span_size=32) == 0
    assert last_report(tmp_path / "out")["images"]["done"] == 0
    after = tree_bytes(tmp_path / "out")
    assert {n: data for n, data in after.items() if n.startswith(("data", "plan"))} == {
        n: data for n, data in whole.items() if n.startswith(("data", "plan"))
    }


@each_kind
def test_what_comes_behind_damage_is_a_row_that_says_so(tmp_path: Path, name: str) -> None:
    path = MAKERS[name](tmp_path / "in" / name, MEMBERS)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), max_failed=1) == 0
    table = rows(tmp_path / "out")
    reasons = [error for error in table["error"].to_pylist() if error]
    assert len(reasons) == 1
    assert "is damaged or cut" in reasons[0]
    assert str(path) in table["uri"].to_pylist()


@each_kind
def test_repeated_names_stay_apart(tmp_path: Path, name: str, recwarn: pytest.WarningsRecorder) -> None:
    MAKERS[name](tmp_path / "in" / name, [("a.png", png(1)), ("b.png", png(2)), ("a.png", png(3))])
    recwarn.clear()  # zipfile warns of what this test is about
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    assert [uri.partition("#")[2] for uri in rows(tmp_path / "out")["uri"].to_pylist()] == ["a.png", "a.png~2", "b.png"]


@pytest.mark.parametrize("name", [*MAKERS, "s.tar"])
@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_name_that_is_repeated_at_once_is_another_sample(
    lost: int, name: str, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """Each image has the members of its own; also where a span is done again that begins among them."""
    names = ["a.png", "a.cls", "a.txt", "a.png", "a.cls", "a.cls", "a.png", "b.png", "b.cls"]
    members = [(one, png(n) if one.endswith("png") else str(n).encode()) for n, one in enumerate(names)]
    {**MAKERS, "s.tar": make_tar}[name](tmp_path / "in" / name, members)
    recwarn.clear()
    for _ in range(2):
        assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls", "txt"), span_size=2, batch_size=2) == 0
        table = rows(tmp_path / "out").sort_by("uri")
        found = zip(table["uri"].to_pylist(), table["cls"].to_pylist(), table["txt"].to_pylist(), strict=True)
        assert [(uri.partition("#")[2], cls, txt) for uri, cls, txt in found] == [
            *(("a.png", "1", "2"), ("a.png~2", "4", None), ("a.png~3", "5", None), ("b.png", "8", None)),
        ]
        spans = sorted((tmp_path / "out/data").iterdir())
        for path in spans[lost : lost + 1]:
            path.unlink()


def test_a_dry_run_counts_and_the_page_shows_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.page import page

    with tarfile.open(DIGITS / "shards/digits-00000.tar") as tar:
        files = [(m.name, file.read()) for m in tar if (file := tar.extractfile(m))]
    for name in ("s.tgz", "s.zip"):
        MAKERS[name](tmp_path / name / name, files)
        assert run_here(tmp_path / name, tmp_path / "out" / name, dry_run=True, keep=("cls",)) == 0
        assert "about 90 images" in capsys.readouterr().out
        assert run_here(tmp_path / name, tmp_path / "out" / name, keep=("cls",)) == 0
        html = Path(page.write(str(tmp_path / "out" / name), str(tmp_path / "page.html"))).read_text()
        assert html.count("data:image/png;base64") >= 40
        assert "picture not available" not in html


def test_a_typo_in_keep_is_refused_with_what_there_is(tmp_path: Path) -> None:
    from pipeline.errors import ConfigError

    for name in MAKERS:
        MAKERS[name](tmp_path / name / name, MEMBERS)
        with pytest.raises(ConfigError, match=r"--keep clss: no such member .* which has cls, png"):
            run_here(tmp_path / name, tmp_path / "out", keep=("clss",))


def test_members_that_a_zip_cannot_give_are_rows(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "in/s.zip", [("../../a.png", png(1)), ("/abs/b.png", png(2)), ("c.png", png(3))])
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(bytes(raw))) as archive:
        last = archive.infolist()[-1]
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1  # the last member claims to be encrypted
    raw[last.header_offset + 6] |= 1
    path.write_bytes(bytes(raw))
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    found = dict(zip(*(rows(tmp_path / "out")[n].to_pylist() for n in ("key", "error")), strict=True))
    assert found == {"../../a": None, "/abs/b": None, "c": "the member is encrypted"}
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_member_of_a_zip_is_one_row(tmp_path: Path, method: int) -> None:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in/s.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name in "abc":
            archive.writestr(f"{name}.png", png(3))
        second = archive.infolist()[1]
    raw = bytearray(path.read_bytes())
    data = second.header_offset + 35
    middle = slice(data + 12, data + second.compress_size)  # behind what says how it is compressed
    raw[middle] = bytes(255 - byte for byte in raw[middle])
    path.write_bytes(bytes(raw))
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    found = rows(tmp_path / "out").to_pylist()
    assert [(row["key"], row["status"]) for row in found] == [("a", "ok"), ("b", "decode_error"), ("c", "ok")]
    assert found[1]["error"].startswith("the member is damaged (")


def last_report(output: Path) -> dict[str, dict[str, int]]:
    report: dict[str, dict[str, int]] = json.loads(max((output / "runs").glob("*.json")).read_text())
    return report
