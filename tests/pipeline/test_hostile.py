"""Inputs made to do harm: what they cost is a row, or a refusal; nothing is written where it should not be."""

import gzip
import io
import json
import random
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import model_files, storage
from pipeline.errors import ConfigError
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Position, Wanted
from tests.flow import DIGITS, png, run_here
from tests.helpers import rows, run_job
from tests.proxied import noise

WANTED = Wanted(frozenset({"png"}))
ESCAPING = ["../../up.png", "/etc/absolute.png", "a/../../b.png", "C:\\windows\\c.png", "good.png"]


def items(path: Path, kind: str) -> list[Item]:
    entry = storage.stat(str(path))
    assert entry is not None
    return list(FORMATS[kind].items(entry, WANTED, Position()))


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_members_with_names_that_lead_elsewhere_are_names(tmp_path: Path, kind: str) -> None:
    inside = tmp_path / "deep/er/in"
    inside.mkdir(parents=True)
    if kind == "zip":
        with zipfile.ZipFile(inside / "x.zip", "w") as archive:
            for name in ESCAPING:
                archive.writestr(zipfile.ZipInfo(name), png(1))
    else:
        with tarfile.open(inside / "x.tar", "w") as tar:
            for name in ESCAPING:
                info = tarfile.TarInfo(name)
                info.size = len(png(1))
                tar.addfile(info, io.BytesIO(png(1)))
    assert run_here(inside, tmp_path / "deep/er/out", "brightness", max_failed=1) == 0
    uris = rows(tmp_path / "deep/er/out")["uri"].to_pylist()
    assert all(uri.startswith(f"{inside}/x.{kind}#") for uri in uris)
    assert f"{inside}/x.{kind}#good.png" in uris
    assert {path.name for path in tmp_path.rglob("*.png")} == set()


CHUNKS = {b"zTXt": b"Comment\0\0", b"iTXt": b"Comment\0\1\0\0\0", b"iCCP": b"profile\0\0"}  # before what is compressed


def png_bomb(kind: bytes, compressed: bytes) -> bytes:
    """A good PNG with a chunk of this kind."""
    whole, body = png(1), CHUNKS[kind] + compressed
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return whole[:33] + chunk + whole[33:]


def test_what_decompresses_without_end_in_a_picture_costs_its_own_row(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    compressed = zlib.compress(bytes(400 << 20), 9)
    for kind in CHUNKS:
        (tmp_path / f"in/{kind.decode()}.png").write_bytes(png_bomb(kind, compressed))
    (tmp_path / "in/good.png").write_bytes(png(2))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", max_failed=1) == 0
    found = {row["key"]: row["status"] for row in rows(tmp_path / "out").to_pylist()}
    assert found.pop("good.png") == "ok"
    assert set(found.values()) <= {"ok", "decode_error"}


def test_members_that_decompress_to_more_than_they_may_are_rows(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(64 << 20))
        archive.writestr("good.png", png(1))
    raw = bytearray((tmp_path / "x.zip").read_bytes())
    at = raw.rindex(b"PK\1\2", 0, raw.rindex(b"PK\1\2"))  # the first member in the directory lies about its size
    raw[at + 24 : at + 28] = struct.pack("<I", 1 << 20)
    (tmp_path / "x.zip").write_bytes(raw)
    lied, good = items(tmp_path / "x.zip", "zip")
    assert isinstance(lied.data, ValueError)
    assert good.data == png(1)
    raw[at + 24 : at + 28] = struct.pack("<I", (1 << 32) - 2)
    (tmp_path / "x.zip").write_bytes(raw)
    assert "more than" in str(items(tmp_path / "x.zip", "zip")[0].data)


def test_a_gz_whose_header_promises_gigabytes_is_a_row(tmp_path: Path) -> None:
    info = tarfile.TarInfo("bomb.png")
    info.size = 3 << 30
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(info.tobuf() + bytes(1 << 20))
    (only,) = items(tmp_path / "x.tar.gz", "tar.gz")
    assert str(only.data) == "the tar is damaged or cut: unexpected end of data"


def test_a_gz_of_very_much_that_is_no_image_is_passed_through(tmp_path: Path) -> None:
    """A member of 200 MiB that is passed by, an image, and 100 MiB of zeros behind the end."""
    passed, image = tarfile.TarInfo("zeros.bin"), tarfile.TarInfo("good.png")
    passed.size, image.size = 200 << 20, len(png(1))
    with gzip.open(tmp_path / "x.tar.gz", "wb", compresslevel=1) as file:
        file.write(passed.tobuf())
        for _ in range(200):
            file.write(bytes(1 << 20))
        file.write(image.tobuf() + png(1).ljust(-(-image.size // 512) * 512, b"\0"))
        for _ in range(100):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        (only,) = items(tmp_path / "x.tar.gz", "tar.gz")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert only.data == png(1)
    assert most < 32 << 20


def test_parquet_files_that_lie_are_rows(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [noise(n) for n in range(8)]}), tmp_path / "x.parquet", compression="zstd")
    whole, chance = (tmp_path / "x.parquet").read_bytes(), random.Random(5)
    for _ in range(60):
        raw = bytearray(whole)
        begin = chance.choice([0, len(raw) - 700])  # pages, footer
        for _ in range(chance.randrange(1, 5)):
            raw[chance.randrange(begin, len(raw) - 8)] = chance.randrange(256)
        (tmp_path / "x.parquet").write_bytes(raw)
        try:
            found = items(tmp_path / "x.parquet", "parquet")
        except ConfigError:
            continue  # the footer names no image column any more
        assert all(isinstance(item.data, bytes | Exception) for item in found)


@pytest.mark.parametrize("name", ["../up.json", "a/../../up.json", "/absolute.json", "a//absolute.json", "."])
def test_a_model_whose_files_lead_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    entry = storage.Entry(f"memory://model/{name}", 1, "1")
    with pytest.raises(ConfigError, match="refuses a file named"):
        model_files._download([entry], "memory://model/", tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [["a", "a/b.json"], ["a/b.json", "a"], ["x" * 300]], ids=["in", "as", "long"])
def test_a_model_whose_files_no_folder_can_hold_is_refused(tmp_path: Path, names: list[str]) -> None:
    root = f"memory://{tmp_path.name}/"
    storage.put(root + names[0], b"{}")
    with pytest.raises(ConfigError, match=r"^the file .* cannot be kept here"):
        model_files._download([storage.Entry(root + name, 2, "1") for name in names], root, tmp_path / "target")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"output": ["--overwrite", "x"]}, "argument"),
        ({"__class__": "x"}, "unrecognized arguments"),
        ({"input": {"$ref": "/etc/passwd"}}, "give text, a number, or a list of these"),
        ({"config": "other.json"}, "names another such file"),
        ([1], "not a readable JSON object"),
        ("[" * 100_000, "not a readable JSON object"),
    ],
)
def test_a_config_file_gives_flags_and_nothing_else(tmp_path: Path, content: object, said: str) -> None:
    (tmp_path / "c.json").write_text(content if isinstance(content, str) else json.dumps(content))
    output = [] if "output" in content else ["--output", tmp_path / "out"]
    source = [] if "input" in content else ["--input", DIGITS / "shards"]
    done = run_job(
        "label.py", "--config", tmp_path / "c.json", *source, *output, "--model", DIGITS / "model", "--local", code=2
    )
    assert len(done.stderr.strip().splitlines()) == 1
    assert said in done.stderr
