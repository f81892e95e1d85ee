"""The servers, pictures and models that other tests stand on."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
import torch
import transformers
from PIL import Image

from tests.conftest import Bundle
from tests.helpers import rows, tree_bytes
from tests.models import KINDS
from tests.photos import make_photos
from tests.weed import Weed, filesystem


def test_reader_may_read_and_not_write(weed: Weed) -> None:
    weed.fs().pipe_file("inb/fixtures/a", b"1")
    reader = filesystem(weed.reader_env)
    assert reader.cat_file("inb/fixtures/a") == b"1"
    with pytest.raises(PermissionError):
        reader.pipe_file("inb/fixtures/b", b"1")
    with pytest.raises(PermissionError):
        reader.pipe_file("outb/fixtures/b", b"1")


def test_wrong_secret_is_refused(weed: Weed) -> None:
    with pytest.raises(PermissionError):
        filesystem(weed.env | {"AWS_SECRET_ACCESS_KEY": "wrong-secret"}).ls("inb")


def test_objects_are_created_by_one_writer_only(weed: Weed) -> None:
    fs = weed.fs()
    fs.pipe_file("outb/fixtures/once", b"1", mode="create")
    with pytest.raises(OSError, match="pre-conditions"):
        fs.pipe_file("outb/fixtures/once", b"2", mode="create")
    assert fs.cat_file("outb/fixtures/once") == b"1"


@pytest.mark.usefixtures("s3_env")
def test_environment_alone_is_enough_to_reach_the_server(weed: Weed) -> None:
    weed.fs().pipe_file("inb/fixtures/env", b"1")
    assert s3fs.S3FileSystem(skip_instance_cache=True).cat_file("inb/fixtures/env") == b"1"


def test_keys_stay_out_of_the_environment(weed: Weed) -> None:
    assert weed.env["AWS_ACCESS_KEY_ID"] not in os.environ.values()


def test_trees_are_put_and_read_back(weed: Weed, digits: Bundle) -> None:
    keys = weed.put_tree(digits.shards, "inb/fixtures/shards")
    assert len(keys) == 4
    assert tree_bytes("inb/fixtures/shards", weed.fs()) == tree_bytes(digits.shards)


def test_rows_come_sorted_from_all_files(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    vectors = pa.array([[1.0, 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"uri": ["c", "a"], "embedding": vectors}), tmp_path / "data/0.parquet")
    pq.write_table(pa.table({"uri": ["d", "b"], "embedding": vectors}), tmp_path / "data/1.parquet")
    table = rows(tmp_path)
    assert table["uri"].to_pylist() == ["a", "b", "c", "d"]
    assert table["embedding"].to_pylist()[0] == [3.0, 4.0]


def test_photos_are_photo_sized(photos: Path, tmp_path: Path) -> None:
    files = sorted(photos.iterdir())
    assert len(files) == 32
    with Image.open(files[0]) as photo:
        assert photo.size == (500, 375)
    make_photos(tmp_path, 4, tars=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["shard-00000.tar", "shard-00001.tar"]


@pytest.mark.parametrize("kind", KINDS)
def test_tiny_models_load_and_tell_images_apart(tiny_model: Callable[..., Path], kind: str) -> None:
    folder = tiny_model(kind)
    size = json.loads((folder / "preprocessor_config.json").read_text())["size"]["height"]
    model = getattr(transformers, KINDS[kind][0]).from_pretrained(folder).eval()
    with torch.no_grad():
        pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        answer = model(pixels)[-1 if kind == "encoder" else 0]
    assert torch.isfinite(answer).all()
    assert (answer[0] - answer[1]).abs().max() > 1e-2
    assert tiny_model(kind) == folder


def test_tiny_models_take_other_settings(tiny_model: Callable[..., Path]) -> None:
    folder = tiny_model("encoder", use_relative_position_bias=False, use_absolute_position_embeddings=True)
    config = json.loads((folder / "config.json").read_text())
    assert config["use_absolute_position_embeddings"]
    assert not config["use_relative_position_bias"]
