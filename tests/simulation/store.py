"""A storage in this process that promises what S3 does, and every request to which goes through a scheduler."""

from __future__ import annotations

import hashlib
import io
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from functools import partial
from typing import BinaryIO, TypeVar

from pipeline.errors import ObjectUnreadable, PatienceSpent
from pipeline.storage.ranged import Seekable
from pipeline.storage.remote import Remote
from pipeline.storage.store import Entry, TooLarge
from tests.simulation.scheduler import Fate, Killed, Scheduler
from tests.simulation.shards import ENDINGS

SCHEME = "sim"
PAGE = 3  # objects of a page of a listing: each page is true at the moment when it is asked for
PIECE = 2048  # bytes of a pinned stream that one request brings

T = TypeVar("T")


class SimulatedStore(Remote):
    """Objects by URI. What is lost is asked again, as `pipeline/storage/patience.py` does; what is given up raises."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.names: list[str] = []  # their URIs, in order
        self.forbidden: set[str] = set()  # listed, and nobody may read them
        self.scheduler: Scheduler | None = None
        self.watch: Callable[[str, str], None] | None = None  # told of every write just before it takes effect

    def set(self, uri: str, data: bytes) -> None:
        """Put an object there, as something outside of the runs."""
        if uri not in self.objects:
            insort(self.names, uri)
        self.objects[uri] = data

    def remove(self, uri: str) -> None:
        """Remove an object, as something outside of the runs."""
        if self.objects.pop(uri, None) is not None:
            self.names.remove(uri)

    def below(self, prefix: str) -> dict[str, bytes]:
        """The objects below a prefix by the rest of their names."""
        root = prefix.rstrip("/") + "/"
        return {uri[len(root) :]: self.objects[uri] for uri in self.names if uri.startswith(root)}

    def _ask(self, what: str, uri: str, effect: Callable[[], T], *, write: bool = False) -> T:
        while True:
            name = uri.removeprefix(f"{SCHEME}://")
            fate = self.scheduler.request(f"{what} {name}", write=write) if self.scheduler else Fate.WELL
            if fate is Fate.GIVEN_UP:
                raise PatienceSpent("the simulated storage is away")
            if fate is Fate.LOST_BEFORE:
                continue
            if write and self.watch is not None:
                self.watch(what, uri)
            answer = effect()
            if fate is Fate.DIES_AFTER:
                raise Killed
            if fate is Fate.GIVEN_UP_AFTER:
                raise PatienceSpent("the simulated storage is away")
            if fate is Fate.WELL:
                return answer

    def unfit(self, output: str, *, shared: bool) -> str | None:  # noqa: ARG002 - as every store's
        return None

    def listing(self, prefix: str) -> Iterator[Entry]:
        root = prefix.rstrip("/") + "/"
        after, page = root, [Entry(root, 0, "")] * PAGE
        while len(page) == PAGE:
            page = self._ask("list", f"{root} after {after.removeprefix(root)!r}", partial(self._page, root, after))
            yield from page
            after = page[-1].uri if page else after

    def _page(self, root: str, after: str) -> list[Entry]:
        start = bisect_right(self.names, after)
        return [self._entry(uri) for uri in self.names[start : start + PAGE] if uri.startswith(root)]

    def _entry(self, uri: str) -> Entry:
        return Entry(uri, len(self.objects[uri]), etag(self.objects[uri]))

    def stat(self, uri: str) -> Entry | None:
        return self._ask("stat", uri, lambda: self._entry(uri) if uri in self.objects else None)

    def read(
        self, uri: str, start: int | None = None, stop: int | None = None, version: str = "", most: int | None = None
    ) -> bytes:
        return self._ask("read", uri, lambda: self._read(uri, start, stop, version, most))

    def _read(self, uri: str, start: int | None, stop: int | None, version: str, most: int | None) -> bytes:
        data = self.objects.get(uri)
        if data is None:
            raise FileNotFoundError("not found")
        if uri in self.forbidden:
            raise ObjectUnreadable("forbidden")
        if version and etag(data) != version:
            raise ObjectUnreadable("it was replaced while it was read; the next run reads the new one")
        if most is not None and len(data[start:stop]) > most:
            raise TooLarge(len(data[start:stop]), most)
        return data[start:stop]

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        if "/in/" not in entry.uri or not entry.uri.endswith(ENDINGS):
            return super().open_stream(entry, pinned=pinned)
        return io.BufferedReader(_Pieces(self, entry), PIECE)

    def put(self, uri: str, data: bytes) -> None:
        self._ask("put", uri, lambda: self.set(uri, data), write=True)

    def create(self, uri: str, data: bytes) -> bool:
        return self._ask("create", uri, lambda: self._created(uri, data), write=True)

    def _created(self, uri: str, data: bytes) -> bool:
        if uri in self.objects:
            return False
        self.set(uri, data)
        return True

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        return self._ask("replace", uri, lambda: self._replaced(uri, data, version), write=True)

    def _replaced(self, uri: str, data: bytes, version: str) -> bool:
        if uri not in self.objects or etag(self.objects[uri]) != version:
            return False
        self.set(uri, data)
        return True

    def delete(self, uri: str) -> None:
        self._ask("delete", uri, lambda: self.remove(uri), write=True)


class _Pieces(Seekable):
    """An object of one version, small pieces at a time: it may be replaced between any two."""

    def __init__(self, store: SimulatedStore, entry: Entry) -> None:
        super().__init__(entry.size)
        self.store, self.entry = store, entry

    def readinto(self, buffer: bytearray | memoryview) -> int:
        stop = min(self.position + len(buffer), self.size)
        if stop <= self.position:
            return 0
        piece = self.store.read(self.entry.uri, self.position, stop, self.entry.version)
        buffer[: len(piece)] = piece
        self.position = stop
        return len(piece)


def etag(data: bytes) -> str:
    """The version of an object with this content."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
