"""Web servers as sources: Python's own, which lists folders as pages of names and gives files only whole."""

import functools
import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.storage import ranged
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.proxied import noise


class Web(SimpleHTTPRequestHandler):
    """As `python -m http.server`, but silent."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Sizeless(Web):
    """As servers that make or compress what they send: nobody knows how large it will be."""

    def send_header(self, keyword: str, value: str) -> None:
        if keyword != "Content-Length":
            super().send_header(keyword, value)


class Failing(Web):
    """With files that cannot be had, such as those of a program that ends in an error."""

    def send_head(self) -> BytesIO | BinaryIO | None:
        if "bad" not in self.path:
            return super().send_head()
        self.send_error(500)
        return None


@contextmanager
def serving(folder: Path, kind: type[Web]) -> Iterator[str]:
    """The address of a server of this folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(kind, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the servers have."""
    (tmp_path / "web").mkdir()
    return tmp_path / "web"


def test_shards_of_a_page_are_read(folder: Path, tmp_path: Path) -> None:
    make_tar(folder / "a.tar", [(f"{n}.png", png(n)) for n in range(3)])
    (folder / "b.png").write_bytes(png(9))
    with serving(folder, Web) as web:
        assert run_here(f"{web}/", tmp_path / "out", "brightness") == 0
        there = rows(tmp_path / "out").to_pylist()
        assert sorted(row["uri"] for row in there) == [*(f"{web}/a.tar#{n}.png" for n in range(3)), f"{web}/b.png"]


def test_what_a_page_lists_has_its_size_and_version(folder: Path) -> None:
    (folder / "a b.png").write_bytes(png(1))
    os.symlink("nowhere", folder / "gone.png")
    with serving(folder, Web) as web:
        before = {entry.uri.rpartition("/")[2]: entry for entry in storage.listing(f"{web}/")}
        assert before["a%20b.png"] == storage.stat(f"{web}/a%20b.png")
        assert (before["a%20b.png"].size, before["gone.png"].version) == (len(png(1)), storage.MISSING)
        os.utime(folder / "a b.png", (0, 0))
        assert storage.stat(f"{web}/a%20b.png") not in (None, before["a%20b.png"])


def test_shards_are_read_where_files_come_only_whole(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "BLOCK", 8 << 10)
    make_tar(folder / "a.tar", [(f"{n}.png", noise(n)) for n in range(10)])
    pq.write_table(pa.table({"image": [noise(n) for n in range(10)]}), folder / "b.parquet", row_group_size=2)
    with zipfile.ZipFile(folder / "c.zip", "w") as archive:
        for n in range(10):
            archive.writestr(f"{n}.png", noise(n))
    with serving(folder, Web) as web:
        assert storage.read(f"{web}/a.tar", 512, 600) == (folder / "a.tar").read_bytes()[512:600]
        assert run_here([f"{web}/{n}" for n in ("a.tar", "b.parquet", "c.zip")], tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out").num_rows == 30


def test_of_a_shard_whose_size_nobody_says_the_row_says_so(folder: Path, tmp_path: Path) -> None:
    make_tar(folder / "a.tar", [("0.png", png(0))])
    (folder / "b.png").write_bytes(png(1))
    (folder / "empty.tar").touch()
    with serving(folder, Sizeless) as web:
        assert run_here(f"{web}/a.tar", tmp_path / "out", "brightness") == 3
        assert run_here(f"{web}/b.png", tmp_path / "image", "brightness") == 0
    why = "the tar cannot be read on: the server does not say how large it is"
    assert rows(tmp_path / "out").select(["status", "error"]).to_pylist() == [{"status": "fetch_error", "error": why}]
    with serving(folder, Web) as web:
        assert run_here(f"{web}/empty.tar", tmp_path / "none", "brightness") == 3
    assert rows(tmp_path / "none")["error"].to_pylist() == ["the tar is damaged or cut: empty file"]


def test_what_a_server_fails_for_is_a_row(folder: Path, tmp_path: Path) -> None:
    """Also while the page is listed: each file is asked for its size by then."""
    make_tar(folder / "a.tar", [(f"{n}.png", png(n)) for n in range(3)])
    make_tar(folder / "bad.tar", [("0.png", png(0))])
    for name in ("b.png", "bad.png"):
        (folder / name).write_bytes(png(9))
    with serving(folder, Failing) as web:
        assert run_here(f"{web}/", tmp_path / "out", "brightness", max_failed=0.5, patience=2) == 0
        there = rows(tmp_path / "out").to_pylist()
        failed = {row["uri"]: row["status"] for row in there if row["status"] != "ok"}
        assert (len(there), failed) == (6, {f"{web}/bad.tar": "fetch_error", f"{web}/bad.png": "fetch_error"})
