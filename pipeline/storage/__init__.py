"""Where bytes live. The only room (with `s3.py`, its S3 half) that knows a URI from a path.

A URI is `s3://bucket/key`, an absolute local path, or anything else that fsspec opens (`gs://`, `https://`, `memory://`).
URIs are verbatim: nothing is escaped or decoded, so keys with spaces, `#`, `%`, `*` or unicode work as they are.
Errors are FileNotFoundError, PermissionError, CredentialsLost or ObjectUnreadable, with stable texts.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import fsspec

from pipeline.errors import CredentialsLost, ObjectUnreadable
from pipeline.storage import local as disk
from pipeline.storage.local import MISSING as MISSING
from pipeline.storage.ranged import Blocks

PARALLEL = 16  # requests in flight per process when many small objects are wanted
QUICK_TRIES = 3
_quick = False  # whether a wrong endpoint should be known in a second, see `be_quick`
SCHEME = re.compile(r"^([a-z][a-z0-9+.-]+)://")


@dataclass(frozen=True)
class Entry:
    """One object or file; `version` changes when its content does (ETag, or size and mtime)."""

    uri: str
    size: int
    version: str


def absolute(uri: str) -> str:
    """The one spelling of a URI: `file://` and relative paths become absolute paths; a trailing slash stays."""
    if uri.startswith("file://"):
        uri = uri.removeprefix("file://")
    if SCHEME.match(uri):
        return uri
    slash = "/" if uri.endswith("/") else ""
    return os.path.abspath(os.path.expanduser(uri)).rstrip("/") + slash or "/"


def join(base: str, *parts: str) -> str:
    """`base/part/part`, whatever the storage."""
    return "/".join([base.rstrip("/"), *parts])


def named_in(file: str, name: str) -> str:
    """What a name in this file stands for: a URI or an absolute path as it is, anything else relative to the file."""
    whole = SCHEME.match(name) or name.startswith(("/", "~"))
    return absolute(name if whole else file[: file.rfind("/") + 1] + name)


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    return not SCHEME.match(uri)


def is_folder(uri: str) -> bool:
    """Whether it is a local folder of exactly that name; object stores have none."""
    return is_local(uri) and os.path.isdir(uri)


def _is_s3(uri: str) -> bool:
    return uri.startswith(("s3://", "s3a://"))


@functools.cache
def _s3() -> Any:
    # Imported when first needed: boto costs half a second that a local run should not pay.
    from pipeline.storage import s3

    if _quick:
        s3.client().retries = QUICK_TRIES
    return s3


def be_quick(quick: bool) -> None:
    """While `quick`, S3 requests are retried twice only: a wrong endpoint is then known in a second, not thirty."""
    global _quick
    _quick = quick
    if _s3.cache_info().currsize:
        _s3().client().retries = QUICK_TRIES if quick else _s3().TRIES


def _fs(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    match = SCHEME.match(uri)
    protocol = match.group(1) if match else "file"
    try:
        fs = fsspec.filesystem(protocol)
    except (ValueError, ImportError) as error:
        raise ObjectUnreadable(f"no file system for {protocol}:// ({error})") from error
    return fs, str(fs._strip_protocol(uri))


def _version(info: dict[str, Any]) -> str:
    tag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    return str(tag).strip('"') if tag else f"{info.get('size')}-{info.get('mtime') or info.get('created') or ''}"


def listing(prefix: str) -> Iterator[Entry]:
    """Every object below a folder-like prefix, in key order, streamed; nothing for one that does not exist."""
    if is_local(prefix):
        if os.path.isdir(prefix):
            yield from (Entry(*found) for found in disk.walk(prefix.rstrip("/") or "/"))
    elif _is_s3(prefix):
        bucket, _ = _s3().split(prefix)
        root = prefix if prefix.endswith("/") or prefix == f"s3://{bucket}" else prefix + "/"
        for key, size, etag in _s3().entries(root):
            if not key.endswith("/"):
                yield Entry(f"s3://{bucket}/{key}", size, etag)
    else:
        fs, path = _fs(prefix)
        for name, info in fs.find(path, detail=True).items():
            yield Entry(fs.unstrip_protocol(name), int(info["size"] or 0), _version(info))


def stat(uri: str) -> Entry | None:
    """The object itself, None when there is none of exactly that name."""
    try:
        if is_local(uri):
            path = disk.path_of(uri)
            return Entry(*disk.stat(path)) if os.path.isfile(path) else None
        if _is_s3(uri):
            return Entry(uri, *_s3().stat(uri))
        fs, path = _fs(uri)
        info = fs.info(path)
        return Entry(uri, int(info.get("size") or 0), _version(info)) if info["type"] == "file" else None
    except FileNotFoundError:
        return None


def check_access(uri: str) -> None:
    """Raise CredentialsLost where S3 is given no keys, or refuses them; whether the object is there does not matter."""
    if _is_s3(uri):
        with contextlib.suppress(OSError, ObjectUnreadable):
            _s3().stat(uri)


def read(uri: str, start: int | None = None, stop: int | None = None, version: str = "") -> bytes:
    """All bytes of an object, or those of [start, stop); on S3 only of this version, if one is given."""
    if _is_s3(uri):
        return bytes(_s3().get(uri, start, stop, version))
    if is_local(uri):
        with open(disk.path_of(uri), "rb") as file:
            file.seek(start or 0)
            return file.read() if stop is None else file.read(stop - (start or 0))
    fs, path = _fs(uri)
    return bytes(fs.cat_file(path, start=start, end=stop))


def reason(error: Exception) -> str:
    """Why an object cannot be read, in stable words: no addresses, paths or request ids."""
    if isinstance(error, ObjectUnreadable):
        return str(error)
    known: dict[type, str] = {
        FileNotFoundError: "not found",
        PermissionError: "access denied",
        IsADirectoryError: "it is a folder",
    }
    return known.get(type(error), f"cannot be read ({type(error).__name__})")


def try_read(uri: str) -> bytes | Exception:
    """`read`, with the reason in place of the bytes when this one object cannot be read."""
    try:
        return read(uri)
    except CredentialsLost:
        raise
    except Exception as error:  # any file system's own family
        return ObjectUnreadable(reason(error))


def read_many(uris: list[str]) -> Iterator[bytes | Exception]:
    """The objects in the order asked for, up to `PARALLEL` requests in flight and as many results held."""
    if all(map(is_local, uris)):
        yield from map(try_read, uris)
        return
    pool = ThreadPoolExecutor(PARALLEL)
    waiting: list[Future[bytes | Exception]] = []
    try:
        for uri in uris:
            waiting.append(pool.submit(try_read, uri))
            if len(waiting) == PARALLEL:
                yield waiting.pop(0).result()
        yield from (future.result() for future in waiting)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupted run waits for no silent server


def open_stream(entry: Entry, *, pinned: bool = False) -> BinaryIO:
    """A seekable, buffered byte stream over an object; the caller closes it.

    `pinned`: on S3, whose ranged reads are independent, an object replaced meanwhile is an error, not a mixture.
    """
    if is_local(entry.uri):
        return open(disk.path_of(entry.uri), "rb")
    ranged = functools.partial(read, entry.uri, version=entry.version if pinned else "")
    return io.BufferedReader(Blocks(entry.size, ranged), 1 << 20)


def put(uri: str, data: bytes) -> None:
    """Write a file whole: after a crash at any moment it is the old one or the new one, never a part."""
    if is_local(uri):
        with disk.written_beside(uri, data) as temporary:
            os.replace(temporary, uri)
    elif _is_s3(uri):
        _s3().put(uri, data)
    else:
        fs, path = _fs(uri)
        fs.pipe_file(path, data)


def create(uri: str, data: bytes) -> bool:
    """Write a file whole unless one of that name exists; whether we did. Of several writers exactly one does."""
    try:
        if is_local(uri):
            with disk.written_beside(uri, data) as temporary:
                os.link(temporary, uri)  # unlike rename, it fails when the name is taken
        elif _is_s3(uri):
            _s3().put(uri, data, exclusive=True)
        else:
            fs, path = _fs(uri)
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    return True


def delete(uri: str) -> None:
    """Delete one file; one that is not there is no error."""
    if is_local(uri):
        Path(uri).unlink(missing_ok=True)
    elif _is_s3(uri):
        _s3().delete(uri)
    else:
        fs, path = _fs(uri)
        if fs.exists(path):
            fs.rm_file(path)


def delete_below(prefix: str) -> None:
    """Delete every file below a prefix, and the folders they leave empty."""
    for entry in list(listing(prefix)):
        delete(entry.uri)
    if is_local(prefix):
        shutil.rmtree(prefix, ignore_errors=True)


def is_half_written(uri: str) -> bool:
    """Whether a local file is what `put` and `create` leave when their process dies."""
    return is_local(uri) and disk.HALF_WRITTEN.search(uri) is not None


def sweep(folder: str, wait_s: float = 0) -> None:
    """Remove half-written files that dead processes of this machine left below a local folder.

    With `wait_s` it waits so long for processes that are writing now: they may be about to end.
    """
    if is_local(folder) and os.path.isdir(folder):
        disk.sweep(folder, wait_s)
