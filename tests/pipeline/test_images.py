"""The image of any row by its uri: loose, in archives and Parquet, on disk and S3."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.images import open_image, read_image
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
