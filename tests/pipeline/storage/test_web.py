"""Web servers as sources: Python's own, which lists folders as pages of names and gives files only whole."""

import functools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline import storage
from tests.flow import make_tar, png, run_here
from tests.helpers import rows


class Web(SimpleHTTPRequestHandler):
    """As `python -m http.server`, but silent."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


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
