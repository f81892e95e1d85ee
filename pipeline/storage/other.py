"""Any other store, through fsspec: `gs://`, `https://`, `memory://` and what else has an fsspec file system.

All of them can be read. A job's output needs exclusive creation, so only those can hold one of which that is known.
Reads and writes are repeated as `patience.py` says where an HTTP status or a broken connection shows that they may be.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from threading import Lock
from typing import Any, BinaryIO

import aiohttp
import fsspec

from pipeline.errors import ObjectUnreadable
from pipeline.storage.host import Fault
from pipeline.storage.parallel import in_parallel
from pipeline.storage.patience import ask
from pipeline.storage.remote import Remote
from pipeline.storage.store import MISSING, Entry, Store, TooLarge
from pipeline.storage.uris import below

PRIVATE = frozenset({"memory"})  # visible in one process only
# Where `mode="create"` fails for a name that is taken: elsewhere fsspec looks first and then writes, or ignores it.
EXCLUSIVE = PRIVATE | {"gs", "gcs", "abfs", "abfss", "az"}
_one_creator = Lock()  # a private store has no server to decide between threads


def store(scheme: str) -> Store:
    """The store of a scheme, known to fsspec or not."""
    return Other(scheme)


class Other(Remote):
    """The objects of one fsspec file system. Its paths are not ours: URIs are built from the one that was given."""

    def __init__(self, scheme: str) -> None:
        self.scheme = scheme

    def unfit(self, output: str, *, shared: bool) -> str | None:
        """It needs a library that is installed, exclusive creation, and to be the same place for all writers."""
        try:
            fs, path = self._fs(output)
        except ObjectUnreadable as error:
            return str(error)
        if not path.strip("/"):
            return "it names no folder"
        if shared and self.scheme in PRIVATE:
            return f"Ray's workers do not share {self.scheme}://, give a folder or an s3:// prefix, or add --local"
        writer = getattr(fs, "_pipe_file", None) or fs.pipe_file
        if self.scheme not in EXCLUSIVE or "mode" not in inspect.signature(writer).parameters:
            return (
                f"{self.scheme}:// cannot create a file only where there is none, so two runs could overwrite each "
                "other: give a folder or an s3:// prefix"
            )
        return None

    def listing(self, prefix: str) -> Iterator[Entry]:
        """Listed at once, as fsspec does."""
        found = ask(prefix, lambda: self._found(prefix))
        path = self._fs(prefix)[1]
        base, root = below(prefix, f"{self.scheme}://"), path.rstrip("/") + "/"
        files = [
            (base + name[len(root) :], info)
            for name, info in found.items()
            if name.startswith(root) and not name.endswith("/")
        ]
        # The page of a web server has names only.
        at_once = in_parallel if any(info["size"] is None for _, info in files) else map
        yield from at_once(self._listed, files)

    def _listed(self, file: tuple[str, Mapping[str, Any]]) -> Entry:
        """A file as the listing says, or as the server says where that does not know.

        A link to nowhere is MISSING, and one for which the server fails: it becomes a row with a reason.
        """
        uri, info = file
        if info["size"] is not None:
            return _entry(uri, info)
        try:
            info = self._judged(uri)
        except (FileNotFoundError, ObjectUnreadable):
            return Entry(uri, 0, MISSING)
        return _entry(uri, info) if info["type"] == "file" else Entry(uri, 0, MISSING)

    def _found(self, prefix: str) -> dict[str, dict[str, Any]]:
        fs, path = self._fs(prefix)
        with _failures("cannot be listed"):
            return dict(fs.find(path, detail=True))

    def stat(self, uri: str) -> Entry | None:
        """The object of exactly that name."""
        try:
            info = ask(uri, lambda: self._info(uri))
        except FileNotFoundError:
            return None
        return _entry(uri, info) if info["type"] == "file" else None

    def _judged(self, uri: str) -> dict[str, Any]:
        """What is known of an object of the source, which may be at fault itself."""
        return ask(uri, lambda: self._info(uri), self._info)

    def _info(self, uri: str) -> dict[str, Any]:
        fs, path = self._fs(uri)
        with _failures("cannot be read"):
            return dict(fs.info(path))

    def read(
        self, uri: str, start: int | None = None, stop: int | None = None, version: str = "", most: int | None = None
    ) -> bytes:
        """The object's bytes as they are now, whatever the version."""
        data = ask(uri, lambda: self._read(uri, start, stop), lambda other: self._read(other, 0, 1))
        if most is not None and len(data) > most:
            raise TooLarge(len(data), most)
        return data

    def _read(self, uri: str, start: int | None, stop: int | None) -> bytes:
        fs, path = self._fs(uri)
        with _failures("cannot be read"):
            data = bytes(fs.cat_file(path, start=start, end=stop))
        is_whole = stop is not None and len(data) > stop - (start or 0)  # from a web server that knows no ranges
        return data[start:stop] if is_whole else data

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        """As of any remote object. Raises ObjectUnreadable where only its end would tell how large it is."""
        if not entry.size and self._judged(entry.uri).get("size") is None:
            raise ObjectUnreadable("the server does not say how large it is")
        return super().open_stream(entry, pinned=pinned)

    def put(self, uri: str, data: bytes) -> None:
        """Write the object whole."""
        ask(uri, lambda: self._put(uri, data))

    def _put(self, uri: str, data: bytes) -> None:
        fs, path = self._fs(uri)
        with _failures("refuses a file"):
            fs.pipe_file(path, data)

    def create(self, uri: str, data: bytes) -> bool:
        """Write the object unless there is one."""
        try:
            ask(uri, lambda: self._create(uri, data))
        except FileExistsError as error:
            if self.stat(uri) is None:
                raise NotADirectoryError("a part of its path is a file") from error
            return False
        return True

    def _create(self, uri: str, data: bytes) -> None:
        fs, path = self._fs(uri)
        with _failures("refuses a file"), _one_creator if self.scheme in PRIVATE else nullcontext():
            fs.pipe_file(path, data, mode="create")

    def delete(self, uri: str) -> None:
        """Delete one object, if it is there."""
        ask(uri, lambda: self._delete(uri))

    def _delete(self, uri: str) -> None:
        fs, path = self._fs(uri)
        with _failures("refuses a deletion"):
            if fs.exists(path):
                fs.rm_file(path)

    def _fs(self, uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
        """The file system, and its path for this URI; raises ObjectUnreadable where there is none."""
        try:
            fs = fsspec.filesystem(self.scheme, **_options(self.scheme))
            fs.invalidate_cache()  # other processes write too
            return fs, str(fs._strip_protocol(uri))
        except Exception as error:  # file systems raise many types for what they miss
            raise ObjectUnreadable(f"no file system for {self.scheme}:// ({error})") from error


def _options(scheme: str) -> dict[str, Any]:
    """By itself fsspec waits five minutes for a web server that says nothing."""
    if scheme not in ("http", "https"):
        return {}
    return {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=15)}}


@contextmanager
def _failures(what: str) -> Iterator[None]:
    """What may pass becomes Fault, errors of a file system's own family, which only it knows, ObjectUnreadable."""
    try:
        yield
    except Exception as error:
        # Of a web server that cannot be reached fsspec says that the file is not there.
        if fault := _fault(error) or (isinstance(error.__cause__, Exception) and _fault(error.__cause__)):
            raise fault from error
        if isinstance(error, OSError | ObjectUnreadable) and not isinstance(error, aiohttp.ClientError):
            raise
        raise ObjectUnreadable(f"{what} ({type(error).__name__})") from error


def _fault(error: Exception) -> Fault | None:
    """The fault that an error stands for, if it is one that may pass."""
    status = getattr(error, "status", None) or getattr(error, "code", None)
    if isinstance(status, int) and (status == 429 or status >= 500):
        return Fault(f"the server answered {status}", throttled=status in (429, 503))
    if isinstance(error, ConnectionError | TimeoutError | aiohttp.ClientConnectionError | aiohttp.ClientPayloadError):
        return Fault(f"the server cannot be reached or broke off ({type(error).__name__})")
    return None


def _entry(uri: str, info: Mapping[str, Any]) -> Entry:
    return Entry(uri, int(info.get("size") or 0), _version(info))


def _version(info: Mapping[str, object]) -> str:
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if tag:
        return str(tag).strip('"')
    time = info.get("mtime") or info.get("created") or info.get("Last-Modified") or ""
    # The same moment is a number in some answers and a datetime in others.
    return f"{info.get('size')}-{time.timestamp() if isinstance(time, datetime) else time}"
