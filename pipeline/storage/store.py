"""What every store can do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

MISSING = "missing"  # the version of an object that was named but is not there


@dataclass(frozen=True)
class Entry:
    """One object or file; `version` changes when its content does (ETag, or size and mtime)."""

    uri: str
    size: int
    version: str


class TooLarge(ValueError):
    """An object has more bytes than were to be read."""

    def __init__(self, size: int, most: int) -> None:
        super().__init__(f"the file has {size} bytes, more than {most}")
        self.size = size


class Store(Protocol):
    """Where the bytes of some URIs live. One object serves all threads and all URIs of its scheme.

    Raises FileNotFoundError, PermissionError and other OSErrors, ObjectUnreadable with a text that is the same on every
    run; and, where the storage rather than the object is at fault, CredentialsLost and PatienceSpent.
    """

    @property
    def is_local(self) -> bool:
        """Whether its URIs are paths of this machine."""

    def unfit(self, output: str, *, shared: bool) -> str | None:
        """Why a job cannot write there, None if it can. `shared`: several processes write. Nothing is requested."""

    def listing(self, prefix: str) -> Iterator[Entry]:
        """Every object below a folder-like prefix, in the order of their keys; nothing for one that does not exist.

        URIs are the prefix and what follows it, letter for letter.
        """

    def stat(self, uri: str) -> Entry | None:
        """The object itself, None when there is none of exactly that name."""

    def check_access(self, uri: str) -> None:
        """Raise CredentialsLost where there are no credentials or they are refused; the object may be missing.

        Raises PermissionError on a disk where a folder above may not be looked into.
        """

    def check_put(self, uri: str) -> None:
        """Raise what `put` would raise, as far as that shows without a file of that name; nothing is left behind."""

    def read(
        self, uri: str, start: int | None = None, stop: int | None = None, version: str = "", most: int | None = None
    ) -> bytes:
        """All bytes of an object, or those of [start, stop); on S3 only of this version, if one is given.

        Raises TooLarge where these are more than `most`; disks and S3 tell before they are read.
        """

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        """A seekable, buffered byte stream over an object; the caller closes it.

        `pinned`: on S3, whose ranged reads are independent, an object replaced meanwhile is an error, not a mixture.
        """

    def put(self, uri: str, data: bytes) -> None:
        """Write an object whole: after a crash at any moment it is the old one or the new one, never a part."""

    def create(self, uri: str, data: bytes) -> bool:
        """Write an object whole unless one of that name exists. True for exactly one of several writers."""

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        """Write an object whole if it is there in this version, else False.

        True for exactly one of several writers on S3, and on local disks that know locks; elsewhere for at least one.
        """

    def delete(self, uri: str) -> None:
        """Delete one object; one that is not there is no error."""

    def delete_below(self, prefix: str, last: str = "") -> None:
        """Delete every object below a prefix, `last` after all others, and the folders they leave empty."""

    def is_folder(self, uri: str) -> bool:
        """Whether it is a folder of exactly that name; False where there are only keys."""

    def is_below(self, uri: str, folder: str) -> bool:
        """Whether an object or folder lies in a folder-like place or is that place, whatever links lead there."""

    def is_half_written(self, uri: str) -> bool:
        """Whether it is a file that `put` or `create` leaves when its process dies; False where they leave none."""

    def sweep(self, folder: str, wait_s: float = 0) -> None:
        """Remove half-written files below a folder whose processes on this machine have exited.

        Waits up to `wait_s` for processes that are writing now: they may be about to exit.
        """
