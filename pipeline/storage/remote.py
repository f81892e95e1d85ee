"""What stores beyond this machine have in common: objects under keys, streamed in ranges, and no folders."""

from __future__ import annotations

import contextlib
import functools
import io
from typing import BinaryIO

from pipeline.storage.ranged import Blocks
from pipeline.storage.store import Entry, Store


class Remote(Store):
    """The answers that do not depend on the kind of remote store."""

    is_local = False

    def check_access(self, uri: str) -> None:
        """Not checked in general."""

    def check_put(self, uri: str) -> None:
        """Ask for the object: whoever may write it may not have the right to read it."""
        self.check_access(uri)
        with contextlib.suppress(PermissionError):
            self.stat(uri)

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        """Ranged reads, one block ahead of the reader."""
        ranged = functools.partial(self.read, entry.uri, version=entry.version if pinned else "")
        return io.BufferedReader(Blocks(entry.size, ranged), 1 << 20)

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        """Looked at, then written."""
        there = self.stat(uri)
        if there is None or there.version != version:
            return False
        self.put(uri, data)
        return True

    def delete_below(self, prefix: str, last: str = "") -> None:
        """Delete every object below a prefix."""
        for entry in sorted(self.listing(prefix), key=lambda entry: entry.uri == last):
            self.delete(entry.uri)

    def is_folder(self, uri: str) -> bool:
        """There are none."""
        return False

    def is_below(self, uri: str, folder: str) -> bool:
        """Their names say so: there are no links."""
        return (uri.rstrip("/") + "/").startswith(folder.rstrip("/") + "/")

    def is_half_written(self, uri: str) -> bool:
        """Objects appear whole."""
        return False

    def sweep(self, folder: str, wait_s: float = 0) -> None:
        """There is nothing to sweep."""
