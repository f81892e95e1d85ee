"""Listings of several prefixes at once. Each is taken in its turn, so the order of what is found does not change."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextvars import copy_context

from pipeline import storage
from pipeline.storage import Entry

AT_ONCE = 8  # prefixes
HELD = 10_000  # entries of each that are listed and not taken yet, some 5 MB
CHUNK = 500


class ListedAhead:
    """Prefixes are begun in the order in which they will be taken. What was begun and is not wanted is ended."""

    def __init__(self) -> None:
        self.streams: dict[str, _Stream] = {}

    def begin(self, prefix: str) -> None:
        """List it from now on in a thread."""
        if prefix not in self.streams:
            self.streams[prefix] = _Stream(prefix)

    def listing(self, prefix: str) -> Iterator[Entry]:
        """As `storage.listing`, for a prefix that was begun or for another one."""
        stream = self.streams.pop(prefix, None)
        if stream is None:
            yield from storage.listing(prefix)
            return
        try:
            yield from stream
        finally:
            stream.ended.set()

    def end(self) -> None:
        """Nothing more is taken."""
        for stream in self.streams.values():
            stream.ended.set()
        self.streams.clear()


class _Stream:
    """One listing in a thread of its own, which waits while so many entries are not taken."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.ended = prefix, threading.Event()
        self.chunks: queue.Queue[list[Entry] | Exception | None] = queue.Queue(HELD // CHUNK)
        threading.Thread(target=copy_context().run, args=(self._list,), name="list", daemon=True).start()

    def _list(self) -> None:
        chunk: list[Entry] = []
        try:
            for entry in storage.listing(self.prefix):
                chunk.append(entry)
                if len(chunk) == CHUNK:
                    self._put(chunk)
                    chunk = []
                if self.ended.is_set():
                    return
            self._put(chunk)
            self._put(None)
        except Exception as error:  # raised where the prefix is taken
            self._put(chunk)
            self._put(error)

    def _put(self, chunk: list[Entry] | Exception | None) -> None:
        while not self.ended.is_set():
            try:
                self.chunks.put(chunk, timeout=1.0)
                return
            except queue.Full:
                continue

    def __iter__(self) -> Iterator[Entry]:
        while (chunk := self.chunks.get()) is not None:
            if isinstance(chunk, Exception):
                raise chunk
            yield from chunk
