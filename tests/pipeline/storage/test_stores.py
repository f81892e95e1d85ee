"""What every store promises, asked of each kind with the same words: a folder, a real S3 server, fsspec's memory."""

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import Entry
from tests.proxied import s3_client
from tests.weed import Weed

KINDS = ["local", "s3", "s3a", "memory"]
# No backslash: the test server takes it for a slash.
ODD = ["a b", "a#b", "a%20b", "a*b?", "[ab]", "ä-日本", "a&b=c+d", "~a", "{1..2}", "'q\"", "a:b", ".hidden"]
WRITERS = 8
numbers = itertools.count()


@pytest.fixture(params=KINDS)
def root(request: pytest.FixtureRequest, tmp_path: Path, weed: Weed, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place in each store, without a trailing slash."""
    fresh = f"contract-{next(numbers)}"
    with s3_client(weed.env, monkeypatch):
        yield {
            "local": str(tmp_path / "in"),
            "s3": f"s3://outb/{fresh}",
            "s3a": f"s3a://outb/{fresh}",
            "memory": f"memory://{fresh}",
        }[request.param]


def uris(prefix: str) -> list[str]:
    return [entry.uri for entry in storage.listing(prefix)]


def test_what_is_put_is_read(root: str) -> None:
    uri, data = f"{root}/deep/er/x.bin", bytes(range(256)) * 100
    storage.put(uri, b"older")
    storage.put(uri, data)
    assert storage.read(uri) == data
    assert storage.read(uri, 5) == data[5:]
    assert storage.read(uri, 5, 9) == data[5:9]
    assert storage.read(uri, len(data) - 3, len(data)) == data[-3:]
    storage.put(f"{root}/empty", b"")
    assert storage.read(f"{root}/empty") == b""


def test_whether_a_name_can_be_put_is_asked_without_a_trace(root: str) -> None:
    storage.check_put(f"{root}/deep/er/x")
    storage.put(f"{root}/x", b"older")
    storage.check_put(f"{root}/x")
    assert uris(root) == [f"{root}/x"]
    assert storage.read(f"{root}/x") == b"older"


def test_where_a_disk_takes_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in (f"{tmp_path}/file/x", str(tmp_path), "/proc/x/y"):
        with pytest.raises(OSError, match="directory"):
            storage.check_put(name)
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_is_not_there(root: str) -> None:
    assert uris(f"{root}/none") == []
    assert storage.stat(f"{root}/none") is None
    storage.delete(f"{root}/none")
    storage.delete_below(f"{root}/none")
    with pytest.raises(FileNotFoundError):
        storage.read(f"{root}/none")
    assert str(storage.try_read(f"{root}/none")) == "not found"


def test_what_lies_below_a_place(root: str) -> None:
    assert storage.is_below(f"{root}/a/b", root)
    assert storage.is_below(f"{root}/a", f"{root}/a/")
    assert storage.is_below(f"{root}/a/", f"{root}/a")
    assert not storage.is_below(root, f"{root}/a")
    assert not storage.is_below(f"{root}/ab", f"{root}/a")


def test_a_name_is_created_once(root: str) -> None:
    assert storage.create(f"{root}/x", b"first")
    assert not storage.create(f"{root}/x", b"second")
    assert storage.read(f"{root}/x") == b"first"
    storage.delete(f"{root}/x")
    assert storage.create(f"{root}/x", b"third")


def test_only_the_version_that_was_seen_is_replaced(root: str) -> None:
    assert not storage.replace(f"{root}/x", b"first", "1")
    assert storage.create(f"{root}/x", b"first")
    seen = storage.stat(f"{root}/x")
    assert seen is not None
    assert storage.replace(f"{root}/x", b"second!", seen.version)
    assert not storage.replace(f"{root}/x", b"third", seen.version)
    assert storage.read(f"{root}/x") == b"second!"
    assert uris(root) == [f"{root}/x"]


@pytest.mark.parametrize("root", ["s3", "memory"], indirect=True)  # on disk a writer is a process: test_local.py
def test_of_several_writers_one_creates(root: str) -> None:
    together = threading.Barrier(WRITERS)

    def write(number: int) -> bool:
        together.wait()
        return storage.create(f"{root}/x", bytes([number]) * 1000)

    with ThreadPoolExecutor(WRITERS) as pool:
        created = list(pool.map(write, range(WRITERS)))
    assert sum(created) == 1
    assert storage.read(f"{root}/x") == bytes([created.index(True)]) * 1000


def test_a_listing_has_every_object_in_order_and_nothing_beside(root: str) -> None:
    names = ["a/b", "a/c/d", "a0", "b", "é"]  # no a.txt: the test server sorts folder by folder, others by key
    for name in reversed(names):
        storage.put(f"{root}/{name}", name.encode())
    storage.put(f"{root}-beside/x", b"x")
    expected = [f"{root}/{name}" for name in names]
    assert uris(root) == expected == uris(root + "/")
    assert uris(f"{root}/a") == [f"{root}/a/b", f"{root}/a/c/d"]
    assert uris(f"{root}/b") == []  # an object is no folder
    assert [entry.size for entry in storage.listing(root)] == [len(name.encode()) for name in names]


def test_a_listing_and_stat_say_the_same(root: str) -> None:
    storage.put(f"{root}/x", b"12")
    (listed,) = storage.listing(root)
    assert storage.stat(f"{root}/x") == listed
    assert storage.stat(root) is None  # a folder or prefix is no object
    storage.put(f"{root}/x", b"345")
    changed = storage.stat(f"{root}/x")
    assert isinstance(changed, Entry)
    assert changed.version != listed.version


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_names(root: str, name: str) -> None:
    uri = f"{root}/{name}/{name}"
    storage.put(uri, name.encode())
    assert uris(root) == [uri] == uris(f"{root}/{name}")
    assert storage.read(uri) == name.encode()
    assert storage.stat(uri) is not None
    assert not storage.create(uri, b"")
    storage.delete(uri)
    assert uris(root) == []


def test_deleting_below_deletes_nothing_beside(root: str) -> None:
    for name in ("a/x", "a/b/y", "ab", "a.txt"):
        storage.put(f"{root}/{name}", b"x")
    storage.delete_below(f"{root}/a")
    assert uris(root) == [f"{root}/a.txt", f"{root}/ab"]
    assert not storage.is_folder(f"{root}/a")


def test_deleting_below_deletes_what_is_to_go_last_too(root: str) -> None:
    for name in ("a/z", "a/b/y", "a/x"):
        storage.put(f"{root}/{name}", b"x")
    storage.delete_below(f"{root}/a", last=f"{root}/a/x")
    assert uris(root) == []


def test_deleting_below_leaves_what_links_lead_to(tmp_path: Path) -> None:
    for folder in ("out", "photos"):
        (tmp_path / folder).mkdir()
    photo = tmp_path / "photos" / "a.jpg"
    photo.write_bytes(b"x")
    (tmp_path / "out" / "photos").symlink_to(photo.parent)
    (tmp_path / "out" / "a.jpg").symlink_to(photo)
    (tmp_path / "out" / "dangling").symlink_to(tmp_path / "none")
    (tmp_path / "linked").symlink_to(tmp_path / "out")
    storage.delete_below(str(tmp_path / "linked"))
    assert not list((tmp_path / "out").iterdir())
    assert photo.read_bytes() == b"x"


def test_a_stream_can_be_sought(root: str) -> None:
    data = bytes(range(256)) * 50
    storage.put(f"{root}/x", data)
    (entry,) = storage.listing(root)
    for pinned in (False, True):
        with storage.open_stream(entry, pinned=pinned) as stream:
            assert stream.read(10) == data[:10]
            stream.seek(-7, 2)
            assert stream.read() == data[-7:]
            stream.seek(3)
            assert stream.read() == data[3:]


def test_many_are_read_in_the_order_asked_for(root: str) -> None:
    asked = [f"{root}/{number:02d}" for number in range(40)]
    for uri in asked[::2]:
        storage.put(uri, uri.encode())
    found = list(storage.read_many(asked))
    assert found[::2] == [uri.encode() for uri in asked[::2]]
    assert {str(error) for error in found[1::2]} == {"not found"}


def test_what_only_folders_know_has_an_answer_everywhere(root: str) -> None:
    storage.put(f"{root}/x", b"x")
    assert storage.is_folder(root) == storage.is_local(root)
    assert not storage.is_half_written(f"{root}/x")
    storage.sweep(root)
    storage.check_access(f"{root}/x")
    assert uris(root) == [f"{root}/x"]
    assert storage.unfit(root, shared=False) is None
