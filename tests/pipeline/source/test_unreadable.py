"""Photos of kinds that cannot be read here, wherever they are: a row that says why, or counted; never out of sight."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, TiffImagePlugin

from pipeline.errors import ConfigError
from pipeline.page import page
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.source.test_archives import make_tar_gz, make_zip
from tests.pipeline.source.test_passed import HEIC, JXL


def raw(beginning: bytes = b"") -> bytes:
    """A raw photo as far as Pillow sees it: the TIFF of its small preview, or what no reader knows."""
    if beginning:
        return beginning + bytes(40)
    about = TiffImagePlugin.ImageFileDirectory_v2()
    about[254] = 1
    content = io.BytesIO()
    Image.new("RGB", (16, 12)).save(content, "TIFF", tiffinfo=about)
    return content.getvalue()


PHOTOS = {
    "b.heic": HEIC,
    "c.JXL": JXL,
    "d.dng": raw(),
    "e.cr3": raw(b"\0\0\0\x18ftypcrx "),
    "f.raf": raw(b"FUJIFILMCCD-RAW"),
}
WHY = {
    "b.heic": "a HEIC photo, which Pillow does not read by itself",
    "c.JXL": "a JPEG XL photo, which Pillow does not read by itself",
    "d.dng": "a raw photo, of which Pillow reads the small preview alone",
    "e.cr3": "a raw photo, which Pillow does not read by itself",
    "f.raf": "a raw photo, which Pillow does not read by itself",
}
MAKERS = {"s.tar": make_tar, "s.tgz": make_tar_gz, "s.zip": make_zip}


def archive(path: Path) -> Path:
    """Photos before, between and behind the images, one of them in an image's own sample."""
    readable = [("a.png", png(1)), ("g.png", png(2)), ("h.png", png(3))]
    photos = list(PHOTOS.items())
    return MAKERS[path.name](
        path, [("a.heic", HEIC), readable[0], *photos[:2], *readable[1:], *photos[2:], ("i.txt", b"")]
    )


def reasons(output: Path) -> dict[str, str | None]:
    """The error of every row by the image's name."""
    return {row["uri"].replace("#", "/").rpartition("/")[2]: row["error"] for row in rows(output).to_pylist()}


@pytest.mark.parametrize("name", MAKERS)
def test_archives_say_once_which_photos_they_pass_by(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_here(archive(tmp_path / "in" / name), out, "brightness", span_size=1, limit=2) == 0
    said = "photos that cannot be read here, passed by: "
    assert f"{said}2 x .heic, 1 x .jxl (--unreadable row" in capsys.readouterr().out
    assert run_here(tmp_path / "in", out, "brightness", span_size=1) == 0
    assert f"{said}1 x .dng, 1 x .cr3, 1 x .raf (--unreadable row" in capsys.readouterr().out
    assert reasons(out) == {"a.png": None, "g.png": None, "h.png": None}
    text = Path(page.write(str(out))).read_text()
    assert "Photos that could not be read there, passed by: 2 x .heic, 1 x .jxl, 1 x .dng, 1 x .cr3, 1 x .raf." in text


def test_in_archives_they_become_rows_where_that_is_wanted(tmp_path: Path) -> None:
    for name in MAKERS:
        archive(tmp_path / "in" / name)
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", unreadable="row", max_failed=1.0) == 0
    assert len(rows(tmp_path / "out")) == len(MAKERS) * 9
    assert reasons(tmp_path / "out") == {"a.heic": WHY["b.heic"], "a.png": None, "g.png": None, "h.png": None} | WHY


def test_an_archive_of_nothing_else_says_what_to_do(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "in/s.tar", [("a.heic", HEIC), ("a.cls", b"3")])
    with pytest.raises(ConfigError, match=r"no image .* which has cls, heic: .* --unreadable row .*pillow-heif"):
        run_here(tar, tmp_path / "out")
    assert run_here(tar, tmp_path / "out", "brightness", unreadable="row", keep=("cls",)) == 3
    assert rows(tmp_path / "out")["cls"].to_pylist() == ["3"]


def test_a_folder_of_nothing_else_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.heic").write_bytes(HEIC)
    for source in ("in", "in/*.heic"):
        with pytest.raises(ConfigError, match=r"only other files \(1 x .heic\); --unreadable row"):
            run_here(tmp_path / source, tmp_path / "out")


def test_in_parquet_and_lists_they_are_rows_as_all_that_is_named(tmp_path: Path) -> None:
    """Also of a file that `--input` names by itself; of Parquet bytes, Hugging Face's structs and URIs."""
    for folder in ("in", "csv", "txt", "one"):
        (tmp_path / folder).mkdir()
        for name, data in PHOTOS.items():
            (tmp_path / folder / name).write_bytes(data)
    structs = [{"bytes": data, "path": name} for name, data in PHOTOS.items()]
    for form, cells in {"bytes": list(PHOTOS.values()), "struct": structs, "uri": list(PHOTOS)}.items():
        pq.write_table(pa.table({"image": cells}), tmp_path / f"in/{form}.parquet")
    (tmp_path / "csv/list.csv").write_text("\n".join(["photo,n", *(f"{name},1" for name in PHOTOS)]))
    (tmp_path / "txt/list.txt").write_text("\n".join(PHOTOS))
    inputs = [tmp_path / name for name in ("in", "csv/list.csv", "txt/list.txt", "one/b.heic")]
    assert run_here(inputs, tmp_path / "out", "brightness", max_failed=1.0) == 0
    found = {row["uri"].removeprefix(f"{tmp_path}/"): row["error"] for row in rows(tmp_path / "out").to_pylist()}
    parquet = {
        f"in/{form}.parquet#{n}": why for form in ("bytes", "struct", "uri") for n, why in enumerate(WHY.values())
    }
    listed = {f"{folder}/{name}": why for folder in ("csv", "txt") for name, why in WHY.items()}
    assert found == parquet | listed | {"one/b.heic": WHY["b.heic"]}
