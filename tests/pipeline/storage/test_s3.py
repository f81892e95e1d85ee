"""How patient the S3 store is."""

from collections.abc import Callable

import pytest

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.storage import Entry, s3
from tests.faults import FaultProxy, Rule

URI = "s3://inb/patience/x"


def open_and_read() -> None:
    with storage.open_stream(Entry(URI, 10, "")) as stream:
        stream.read()


ASK: dict[str, Callable[[], object]] = {
    "read": lambda: storage.read(URI),
    "create": lambda: storage.create(URI, b"x"),
    "list": lambda: list(storage.listing("s3://inb/patience/")),
    "stream": open_and_read,
}


@pytest.mark.parametrize("what", ASK)
def test_within_quick_less_is_tried(proxied: FaultProxy, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "TRIES", 4)

    def tries() -> int:
        proxied.reset()
        proxied.fail(Rule("503"))
        with pytest.raises(ObjectUnreadable, match="the storage answered"):
            ASK[what]()
        return proxied.hits()[0]

    with storage.quick():
        assert tries() == s3.QUICK_TRIES
    assert tries() == 4


def test_threads_that_read_for_a_quick_one_are_quick(proxied: FaultProxy) -> None:
    proxied.fail(Rule("503"))
    with storage.quick():
        found = list(storage.read_many([f"{URI}{number}" for number in range(4)]))
    assert all(isinstance(data, ObjectUnreadable) for data in found)
    assert proxied.hits() == [4 * s3.QUICK_TRIES]
