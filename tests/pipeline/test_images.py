"""The image of any row by its uri: loose, in archives and Parquet, on disk and S3."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.images import open_image, read_image
from pipeline.page import page
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.weed import Weed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """An image of 3 x 1, 3 x 2 ... pixels in every place."""
    folder = tmp_path / "in"
    make_tar(folder / "s#1.tar", [("a#b.png", png(1, (3, 1))), ("c.png", png(2, (3, 2))), ("c.png", png(3, (3, 3)))])
    (folder / "odd#.tar#x.png").write_bytes(png(4, (3, 4)))
    (folder / "other").mkdir()
    (tmp_path / "far.png").write_bytes(png(5, (3, 5)))
    pq.write_table(pa.table({"image": [png(6, (3, 6)), png(7, (3, 7))]}), folder / "p.parquet")
    pq.write_table(pa.table({"photo": [str(tmp_path / "far.png")]}), folder / "uris.pq")
    return folder


def test_the_image_of_every_row_is_found(source: Path, tmp_path: Path) -> None:
    assert run_here(source, tmp_path / "out") == 0
    found = rows(tmp_path / "out").to_pylist()
    assert sorted(row["height"] for row in found) == [1, 2, 3, 4, 5, 6, 7]
    for row in found:
        assert (open_image(row["uri"]).size, open_image(row["uri"]).mode) == ((3, row["height"]), "RGB")


@pytest.mark.parametrize("name", ["shard", "shard.bin"])
def test_of_a_shard_whose_ending_tells_nothing(name: str, tmp_path: Path) -> None:
    """Its images are found again on the page, in copies and by their uris."""
    make_tar(tmp_path / name, [("a.png", png(1, (3, 1))), ("b.png", png(2, (3, 2)))])
    assert run_here(tmp_path / name, tmp_path / "out", input_format="auto" if name == "shard" else "tar") == 0
    assert [open_image(uri).height for uri in rows(tmp_path / "out")["uri"].to_pylist()] == [1, 2]
    assert "picture not available" not in Path(page.write(str(tmp_path / "out"), None)).read_text()
    compact(str(tmp_path / "out"), str(tmp_path / "copy"), rows_per_file=10, images=True)
    (copy,) = (tmp_path / "copy").rglob("*.parquet")
    assert [image["bytes"] for image in pq.read_table(copy)["image"].to_pylist()] == [png(1, (3, 1)), png(2, (3, 2))]


@pytest.mark.usefixtures("s3_env")
def test_on_s3(source: Path, weed: Weed) -> None:
    weed.put_tree(source, "inb/images")
    assert open_image("s3://inb/images/s#1.tar#c.png~2").size == (3, 3)
    assert read_image("s3://inb/images/odd#.tar#x.png") == png(4, (3, 4))


def test_another_column_and_what_is_not_there(source: Path, tmp_path: Path) -> None:
    make_tar(tmp_path / "m.tar", [("1.png", png(1, (3, 1))), ("1.mask.png", png(1, (3, 9)))])
    assert open_image(f"{tmp_path}/m.tar#1.mask.png", "mask.png").size == (3, 9)
    for gone in ("nowhere.png", "in/p.parquet#7", "m.tar#2.png", "gone.tar#1.png"):
        with pytest.raises(FileNotFoundError, match="no such image"):
            open_image(f"{tmp_path}/{gone}")
    assert source.exists()
