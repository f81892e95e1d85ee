"""What stores beyond this machine have in common: objects under keys, streamed in ranges, and no folders."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import BinaryIO

from pipeline.storage.ranged import Blocks
from pipeline.storage.store import Entry, Store

_quick = ContextVar("quick", default=False)


@contextmanager
def quick() -> Iterator[None]:
    """Within the block S3 requests are retried twice only: a wrong endpoint is then known in a second, not thirty."""
    token = _quick.set(True)
    try:
        yield
    finally:
        _quick.reset(token)


def is_quick() -> bool:
    """Whether requests made here and now are those of a `quick` block."""
    return _quick.get()


class Remote(Store):
    """The answers that do not depend on the kind of remote store."""

    is_local = False

    def check_access(self, uri: str) -> None:
        """Nothing is known of credentials in general."""

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        """Ranged reads, one block ahead of the reader."""
        ranged = functools.partial(self.read, entry.uri, version=entry.version if pinned else "")
        return io.BufferedReader(Blocks(entry.size, ranged), 1 << 20)

    def delete_below(self, prefix: str) -> None:
        """Delete every object below a prefix."""
        for entry in list(self.listing(prefix)):
            self.delete(entry.uri)

    def is_folder(self, uri: str) -> bool:
        """There are none."""
        return False

    def is_half_written(self, uri: str) -> bool:
        """Objects appear whole."""
        return False

    def sweep(self, folder: str, wait_s: float = 0) -> None:
        """There is nothing to sweep."""
