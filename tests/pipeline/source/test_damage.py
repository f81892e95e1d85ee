"""What nobody's writer should write: each is a row with a reason, and the shards beside it are done."""

import base64
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as encryption
import pytest

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source.format import FORMATS
from pipeline.source.item import Position, Wanted
from pipeline.source.values import readable
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.source.test_archives import make_tar_gz, make_zip


def zip_of_another_time(path: Path) -> None:
    """Its directory asks for a version of zip that there is not."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png(1))
    raw = bytearray(path.read_bytes())
    raw[raw.rfind(b"PK\1\2") + 6] = 200
    path.write_bytes(raw)


def tar_of_headers(path: Path) -> None:
    """Hundreds of long names before one member."""
    name = tarfile.TarInfo("././@LongLink")
    name.size, name.type = 4, tarfile.GNUTYPE_LONGNAME
    whole = make_tar(path, [("a.png", png(1))]).read_bytes()
    path.write_bytes((name.tobuf(tarfile.GNU_FORMAT) + b"abc\0".ljust(512, b"\0")) * 2000 + whole)


def parquet_of_damaged_pages(path: Path) -> None:
    """Its footer is whole; pyarrow calls what it meets before an error of input and output."""
    pq.write_table(pa.table({"image": [png(n) for n in range(20)]}), path, compression="gzip", use_dictionary=False)
    raw = bytearray(path.read_bytes())
    raw[60:160] = bytes(100)
    path.write_bytes(raw)


class Keys(encryption.KmsClient):  # type: ignore[misc]  # comes without types
    """Keeps no key, as only the file's writer asks."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:  # noqa: ARG002 - pyarrow's names
        return base64.b64encode(key_bytes)


def parquet_that_is_encrypted(path: Path) -> None:
    """Who has no key sees that, and nothing else."""
    told = encryption.EncryptionConfiguration(footer_key="key", column_keys={"key": ["image"]})
    factory = encryption.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), told)
    pq.write_table(pa.table({"image": [png(1)]}), path, encryption_properties=properties)


@pytest.mark.parametrize(
    ("name", "make", "said"),
    [
        ("s.parquet", parquet_of_damaged_pages, "it is damaged or no Parquet file"),
        ("s.parquet", parquet_that_is_encrypted, "it is encrypted"),
        ("s.zip", zip_of_another_time, "the zip is damaged or cut: zip file version 20.0"),
        ("s.tar", tar_of_headers, "the tar is damaged or cut: hundreds of headers belong to one member"),
    ],
)
def test_a_shard_that_no_reader_can_follow(name: str, make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(1))
    make(tmp_path / "in" / name)
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    found = {row["uri"]: (row["status"], row["error"]) for row in rows(tmp_path / "out").to_pylist()}
    assert found[f"{tmp_path}/in/a.png"] == ("ok", None)
    assert found[f"{tmp_path}/in/{name}"] == ("decode_error", said)


def latin(*texts: bytes) -> pa.StringArray:
    """A column that says it is UTF-8, which writers do not check."""
    return pa.array(texts, pa.binary()).view(pa.string())


@pytest.mark.usefixtures("s3_env")
@pytest.mark.parametrize(("name", "make"), [("s.zip", make_zip), ("s.tgz", make_tar_gz), ("s.tar", make_tar)])
def test_a_shard_that_is_gone_before_it_is_read_is_not_damaged(
    name: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    """What cannot be had may be there another time; what is damaged is damaged."""
    uri = f"s3://outb/gone/{name}"
    storage.put(uri, make(tmp_path / name, [("a.png", png(1))]).read_bytes())
    entry = storage.stat(uri)
    assert entry is not None
    storage.delete(uri)
    kind = next(kind for kind in FORMATS.values() if name.endswith(kind.endings))
    (item,) = kind.items(entry, Wanted(frozenset({"png"})), Position())
    assert item.uri == uri
    assert isinstance(item.data, ObjectUnreadable), item.data


def test_texts_of_a_parquet_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    texts, images = latin(b"k\xe9y", b"plain"), pa.array([png(1), png(2)])
    within = pa.StructArray.from_arrays([pa.array([None, png(3)]), texts], ["bytes", "path"])
    pq.write_table(pa.table({"image": images, "key": texts, "cls": texts}), tmp_path / "in/bytes.parquet")
    pq.write_table(pa.table({"image": within, "cls": texts}), tmp_path / "in/struct.parquet")
    pq.write_table(pa.table({"url": texts, "cls": texts}), tmp_path / "in/uris.parquet")
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("cls",), max_failed=1) == 0
    table = ds.dataset(tmp_path / "out/data").to_table().sort_by("uri").to_pydict()
    assert table["key"] == ["k\\xe9y", "plain", "0", "1", f"{tmp_path}/in/k\\xe9y", f"{tmp_path}/in/plain"]
    assert table["status"] == ["ok", "ok", "fetch_error", "ok", "fetch_error", "fetch_error"]
    assert table["cls"] == ["k\\xe9y", "plain"] * 3


def test_every_kind_of_text_is_made_readable() -> None:
    texts = latin(b"k\xe9y", b"plain", b"last")
    ends = pa.array([0, 1, 2, 3], pa.int32())
    lists = pa.ListArray.from_arrays(ends, texts, mask=pa.array([False, True, False]))
    fields = pa.StructArray.from_arrays([lists, texts], ["list", "text"])
    assert readable(lists).to_pylist() == [["k\\xe9y"], None, ["last"]]
    assert readable(lists[:2]).to_pylist() == [["k\\xe9y"], None]
    assert readable(fields[:1]).to_pylist() == [{"list": ["k\\xe9y"], "text": "k\\xe9y"}]
    assert readable(fields).type == fields.type
    view = pa.array([b"k\xe9y"], pa.binary_view()).view(pa.string_view())
    assert readable(view).to_pylist() == ["k\\xe9y"]
    assert readable(pa.array([b"\xff", None])).to_pylist() == [b"\xff", None]
