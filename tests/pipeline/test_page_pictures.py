"""Thumbnails from every place an image may lie, and what happens when it cannot be had."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.page import pictures
from pipeline.page.pictures import Pictured
from pipeline.source.item import Wanted
from pipeline.storage.ranged import Meter
from tests.flow import make_tar


def jpeg(red: int, size: tuple[int, int] = (300, 200), **options: object) -> bytes:
    into = io.BytesIO()
    Image.new("RGB", size, (red, 0, 0)).save(into, "JPEG", **options)
    return into.getvalue()


def red_of(picture: bytes) -> int:
    return int(np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))[..., 0].mean())


def thumbnails(
    shard: object, names: list[str], meter: Meter | None = None, column: str | None = None
) -> dict[str, bytes]:
    """By name, the pictures of these images of a shard."""
    wanted = Wanted(frozenset({"jpg", "png"}), column)
    found = pictures.thumbnails([Pictured(f"{shard}#{name}", str(shard)) for name in names], 96, wanted, meter)
    return {uri.removeprefix(f"{shard}#"): picture for uri, picture in found.items()}


def loose(*paths: Path) -> dict[str, bytes]:
    return pictures.thumbnails([Pictured(str(path), "") for path in paths], 96, Wanted(frozenset()))


def test_loose_images_of_any_name(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a b#c.jpg", "100 %=ü.jpg")]
    for path, red in zip(paths, (50, 200), strict=True):
        path.write_bytes(jpeg(red))
    found = loose(*paths)
    assert [red_of(found[str(path)]) for path in paths] == pytest.approx([50, 200], abs=3)
    assert pictures.dimensions(found[str(paths[0])]) == (96, 64)


def test_tar_members_and_repeated_names(tmp_path: Path) -> None:
    members = [("x/1.jpg", jpeg(40)), ("x/1.cls", b"3"), ("x/1.jpg", jpeg(220)), ("2.jpg", jpeg(120))]
    tar = make_tar(tmp_path / "a.tar", members)
    found = thumbnails(tar, ["2.jpg", "x/1.jpg~2", "x/1.jpg"])
    assert red_of(found["x/1.jpg"]) == pytest.approx(40, abs=3)
    assert red_of(found["x/1.jpg~2"]) == pytest.approx(220, abs=3)
    assert red_of(found["2.jpg"]) == pytest.approx(120, abs=3)


def test_tar_is_left_when_all_wanted_are_found(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "a.tar", [("0.jpg", jpeg(9)), *((f"{i}.bin", bytes(1 << 20)) for i in range(1, 9))])
    meter = Meter(64 << 20)
    assert thumbnails(tar, ["0.jpg"], meter)
    assert meter.spent <= 1 << 18


@pytest.mark.parametrize("kind", ["bytes", "struct", "uri"])
def test_parquet_rows(tmp_path: Path, kind: str) -> None:
    images = [jpeg(red) for red in (30, 90, 210)]
    columns: dict[str, list[object]] = {
        "bytes": [*images],
        "struct": [{"bytes": data, "path": None} for data in images],
        "uri": [str(tmp_path / f"{i}.jpg") for i in range(3)],
    }
    for i, data in enumerate(images):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    path = tmp_path / "t.parquet"
    name = "url" if kind == "uri" else "image"
    pq.write_table(pa.table({"caption": ["a", "b", "c"], name: columns[kind]}), path, row_group_size=2)
    found = thumbnails(path, ["2", "0"])
    assert red_of(found["0"]) == pytest.approx(30, abs=3)
    assert red_of(found["2"]) == pytest.approx(210, abs=3)


def test_parquet_shows_what_its_rows_were_made_of(tmp_path: Path) -> None:
    """Relative URIs, the ending .pq, and the column that --image-column named."""
    (tmp_path / "deep").mkdir()
    for red in (30, 210):
        (tmp_path / "deep" / f"{red}.jpg").write_bytes(jpeg(red))
    columns = {"url": ["deep/30.jpg", "deep/30.jpg"], "other": ["deep/210.jpg", "deep/210.jpg"]}
    pq.write_table(pa.table(columns), tmp_path / "t.pq")
    assert red_of(thumbnails(tmp_path / "t.pq", ["1"])["1"]) == pytest.approx(30, abs=3)
    assert red_of(thumbnails(tmp_path / "t.pq", ["1"], column="other")["1"]) == pytest.approx(210, abs=3)


def test_what_cannot_be_read_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(jpeg(80)[:400])
    (tmp_path / "broken.tar").write_bytes(b"no tar" * 300)
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    (tmp_path / "broken.zip").write_bytes(b"no zip")
    good = tmp_path / "good.jpg"
    good.write_bytes(jpeg(80))
    assert list(loose(tmp_path / "cut.jpg", tmp_path / "absent.jpg", good)) == [str(good)]
    for shard, name in (("broken.tar", "1.jpg"), ("absent.tar", "1.jpg"), ("broken.parquet", "0"), ("broken.zip", "1")):
        assert thumbnails(tmp_path / shard, [name]) == {}
    assert thumbnails(tmp_path / "broken.parquet", ["x"]) == {}


def test_budget_bounds_what_is_read(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (400, 400, 3), dtype=np.uint8)
    into = io.BytesIO()
    Image.fromarray(noise).save(into, "PNG")
    tar = make_tar(tmp_path / "a.tar", [(f"{i}.png", into.getvalue()) for i in range(20)])
    meter = Meter(2 << 20)
    found = thumbnails(tar, [f"{i}.png" for i in range(20)], meter)
    assert 1 <= len(found) < 5
    assert meter.spent <= 2 << 20


def test_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = pictures.thumbnail(jpeg(10, exif=exif), 96)
    assert small is not None
    assert pictures.dimensions(small) == (64, 96)
