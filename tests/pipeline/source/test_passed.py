"""What a listing passes by is told in full; photos of kinds that cannot be read here are told apart, or become rows."""

import json
from collections import Counter
from pathlib import Path

import pytest

from pipeline.page import page
from pipeline.source.passed import SHOWN, counted
from tests.flow import DIGITS, png, run_here
from tests.helpers import rows, run_job
from tests.outputs import newest_report

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
JXL = b"\xff\x0a" + bytes(40)
PLUGIN = """
from PIL import Image

def opened(file, _):
    return Image.new("L", (8, 8), 200)

def register_heif_opener():
    Image.register_open("HEIF", opened, lambda head: head[4:12] == b"ftypheic")
    Image.register_extension("HEIF", ".heic")
"""


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    (folder / "b.heic").write_bytes(HEIC)
    (folder / "c.HEIC").write_bytes(HEIC)
    (folder / "d.jxl").write_bytes(JXL)
    for number, ending in enumerate(("mp4", "txt", "md", "json", "html", "svg", "pdf"), 1):
        for copy in range(number):
            (folder / f"{copy}.{ending}").write_text("x")
    return folder


def test_every_kind_is_told_and_photos_apart(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_here(mixed, tmp_path / "out", dry_run=True) == 0
    tried = capsys.readouterr().out
    for _ in range(3):
        assert run_here(mixed, tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert [line for line in tried.splitlines() if "passed by" in line] == [
        line for line in said.splitlines() if "passed by" in line
    ][:2]
    assert "photos that cannot be read here, passed by: 2 x .heic, 1 x .jxl (--unreadable row" in said
    others = "7 x .pdf, 6 x .svg, 5 x .html, 4 x .json, 3 x .md, 2 x .txt, 1 x .mp4"
    assert f"not images, passed by: {others}\n" in said
    report = json.loads(newest_report(tmp_path / "out").read_text())
    assert report["unreadable"] == {".heic": 2, ".jxl": 1}
    text = Path(page.write(str(tmp_path / "out"))).read_text()
    assert f"Not images, passed by: {others}." in text  # three runs have seen the same files
    assert "Photos that could not be read there, passed by: 2 x .heic, 1 x .jxl." in text


def test_they_become_rows_where_that_is_wanted(mixed: Path, tmp_path: Path) -> None:
    assert run_here(mixed, tmp_path / "out", unreadable="row", max_failed=1.0) == 0
    found = {Path(row["uri"]).name: (row["status"], row["error"]) for row in rows(tmp_path / "out").to_pylist()}
    heic = ("decode_error", "a HEIC photo, which Pillow does not read by itself")
    jxl = ("decode_error", "a JPEG XL photo, which Pillow does not read by itself")
    assert found == {"a.png": ("ok", None), "b.heic": heic, "c.HEIC": heic, "d.jxl": jxl}


def test_heic_is_read_where_the_plugin_is_installed(mixed: Path, tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/pillow_heif.py").write_text(PLUGIN)
    flags = ["--input", mixed, "--output", tmp_path / "out", "--model", DIGITS / "model", "--local"]
    done = run_job("label.py", *flags, env={"PYTHONPATH": str(tmp_path / "site")}, code=0)
    assert rows(tmp_path / "out")["status"].to_pylist() == ["ok"] * 3
    assert "passed by: 1 x .jxl" in done.stdout


def test_many_kinds_are_counted_beyond_the_largest() -> None:
    kinds = Counter({f".k{number:02d}": 100 - number for number in range(SHOWN + 4)})
    assert counted(kinds).endswith(f"{101 - SHOWN} x .k{SHOWN - 1:02d} and 4 more kinds")
    assert counted({"": 1}) == "1 x no ending"
