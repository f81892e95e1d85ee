"""Several prefixes are listed at the same time, and what is found comes in the order of the inputs all the same."""

import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import ConfigError
from pipeline.source.ahead import AT_ONCE, CHUNK, HELD
from pipeline.source.kinds import Source
from pipeline.source.naming import Sources
from pipeline.storage import Entry, registry
from pipeline.storage.remote import Remote
from tests.flow import make_tar, png
from tests.proxied import named
from tests.weed import Weed

ENDINGS = frozenset({".png"})


def found(*inputs: str, ahead: bool = True) -> Iterator[Source]:
    return iter(Sources(inputs, "auto", ENDINGS).listing(ahead=ahead))


class Meeting(Remote):
    """A prefix behind the first answers once `least` of them have been asked for; `asked` counts entries by prefix."""

    def __init__(self, images: int, least: int) -> None:
        self.images, self.asked = images, Counter[str]()
        self.met = threading.Barrier(least, timeout=60)

    def stat(self, uri: str) -> Entry | None:  # noqa: ARG002 - there are no objects but the listed ones
        return None

    def listing(self, prefix: str) -> Iterator[Entry]:
        if not prefix.endswith("/0/"):
            self.met.wait()
        for number in range(self.images):
            self.asked[prefix] += 1
            if prefix.endswith("/bad/") and number:
                raise PermissionError("access denied")
            yield Entry(f"{prefix}{number:05d}.png", 1, "1")


def test_prefixes_are_listed_at_the_same_time_and_taken_in_turn() -> None:
    registry.register("meeting", store := Meeting(3, AT_ONCE - 1))
    names = [source.entry.uri for source in found("meeting://b/{0..7}/")]
    assert names == [f"meeting://b/{prefix}/{number:05d}.png" for prefix in range(8) for number in range(3)]
    assert set(store.asked.values()) == {3}


def test_no_more_is_held_than_stated_and_listings_that_are_left_end() -> None:
    registry.register("meeting", store := Meeting(5 * HELD, 1))
    before = threading.active_count()
    listing = found("meeting://b/0/", "meeting://b/1/")
    next(listing)
    while store.asked["meeting://b/1/"] < HELD:
        pass
    del listing
    while threading.active_count() > before:
        pass
    assert store.asked["meeting://b/0/"] == 1
    assert HELD <= store.asked["meeting://b/1/"] <= HELD + 2 * CHUNK


def test_what_is_wrong_with_a_prefix_is_said_in_its_turn() -> None:
    registry.register("meeting", Meeting(2, 1))
    listing = found("meeting://b/0/", "meeting://b/bad/", "meeting://b/1/")
    names = [next(listing).entry.uri.removeprefix("meeting://b/") for _ in range(3)]
    assert names == ["0/00000.png", "0/00001.png", "bad/00000.png"]
    with pytest.raises(ConfigError, match=r"--input meeting://b/bad/: access denied"):
        next(listing)


@pytest.mark.usefixtures("s3_env")
def test_all_kinds_of_inputs_are_found_in_the_same_order(weed: Weed, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    for name, data in named(9):
        path = folder / name[3] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    make_tar(folder / "shards/a.tar", [("0.png", png(1))])
    (folder / "list.txt").write_text("s3://inb/elsewhere/1.png\n")
    weed.put_tree(folder, "inb/ahead")
    inputs = [
        "s3://inb/ahead/{0..8}/", "s3://inb/ahead/shards/a.tar", str(folder),
        "s3://inb/ahead/list.txt", "s3://inb/ahead/none/", "s3://inb/ahead/*/*3.png", "s3://inb/ahead/*/*4.png",
    ]  # fmt: skip
    assert list(found(*inputs)) == list(found(*inputs, ahead=False))
    assert len(list(found(*inputs))) > 20
