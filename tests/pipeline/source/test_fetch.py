"""Images that are objects of their own: however large they are, memory is bounded, and what is no file is a row."""

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.source import fetch
from pipeline.source.fetch import fetched
from pipeline.source.item import Item, Unfetched
from tests.flow import png, run_here
from tests.helpers import rows
from tests.weed import Weed


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds for tests: 100 bytes are read ahead, 1,000 at all."""
    monkeypatch.setattr(fetch, "AHEAD", 100)
    monkeypatch.setattr(fetch, "LARGEST", 1000)


SIZES = [50, 100, 101, 900, 1001, 50]


def put(folder: str, names: list[str]) -> list[Item]:
    for name, size in zip(names, SIZES, strict=True):
        storage.put(f"{folder}/{name}", bytes(size))
    return [Item(f"{folder}/{name}", name, Unfetched(f"{folder}/{name}")) for name in names]


@pytest.mark.usefixtures("small", "s3_env")
@pytest.mark.parametrize("place", ["disk", "s3://inb/sizes", "memory://sizes"])
def test_large_objects_are_read_in_their_turn_and_too_large_ones_never(place: str, tmp_path: Path) -> None:
    folder = str(tmp_path) if place == "disk" else place
    found = [item.data for item in fetched(put(folder, list("abcdef")))]
    assert [len(data) for data in found if isinstance(data, bytes)] == [50, 100, 101, 900, 50]
    assert isinstance(found[4], ValueError)
    assert str(found[4]) == "the file has 1001 bytes, more than 1000"


@pytest.mark.usefixtures("small")
def test_what_is_read_ahead_is_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead: list[int] = []
    read = storage.try_read

    def noted(uri: str, most: int | None = None) -> bytes | Exception:
        data = read(uri, most)
        if most == fetch.AHEAD and isinstance(data, bytes):
            ahead.append(len(data))
        return data

    monkeypatch.setattr(storage, "try_read", noted)
    assert len(list(fetched(put(str(tmp_path), list("abcdef"))))) == len(SIZES)
    assert sorted(ahead) == [50, 50, 100]


@pytest.mark.usefixtures("small")
def test_a_row_says_of_a_named_object_which_it_is(tmp_path: Path) -> None:
    (item, *_) = put(str(tmp_path), list("ebcdaf"))[4:]
    (found,) = fetched([Item("p.parquet#0", "0", Unfetched(item.uri, named=True))])
    assert str(found.data) == f"{item.uri}: the file has 1001 bytes, more than 1000"
    assert isinstance(found.data, ValueError)


def test_a_link_to_a_pipe_is_a_row(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").symlink_to("../pipe")
    (tmp_path / "in/b.png").write_bytes(png(1))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", max_failed=1.0) == 0
    assert rows(tmp_path / "out")["error"].to_pylist() == ["it is no file", None]


@pytest.mark.usefixtures("s3_env")
def test_names_in_a_list_may_go_up_on_s3_too(weed: Weed) -> None:
    for number, key in enumerate(("#1.png", "a.png", "sub/b.png")):
        weed.fs().call_s3("put_object", Bucket="inb", Key=f"ups/{key}", Body=png(number))
    names = "./#1.png\n../a.png\n./../sub/./b.png\nb.png\n../../../../ups/a.png\n"
    weed.fs().call_s3("put_object", Bucket="inb", Key="ups/sub/list.txt", Body=names.encode())
    uris = [storage.named_in("s3://inb/ups/sub/list.txt", name) for name in names.split()]
    assert uris[1:4] == ["s3://inb/ups/a.png", "s3://inb/ups/sub/./b.png", "s3://inb/ups/sub/b.png"]
    assert uris[4] == "s3://inb/ups/a.png"
    weed.fs().call_s3("put_object", Bucket="inb", Key="ups/list.txt", Body=b"./#1.png\n./sub/b.png\n../ups/a.png\n")
    assert run_here("s3://inb/ups/list.txt", "s3://outb/ups", "brightness") == 0
    assert len(rows("outb/ups", weed.fs())) == 3
