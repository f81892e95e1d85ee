r"""The local disk: files listed in order, written whole, and swept of what dead processes left half-written.

A file name may be any bytes, a URI is text: `\xNN` in a URI stands for a byte that is not UTF-8.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from pipeline.errors import ObjectUnreadable
from pipeline.storage.store import MISSING, Entry, Store, TooLarge
from pipeline.storage.uris import as_text, mistaken

HALF_WRITTEN = re.compile(r"/\.[^/]+-\d+\.tmp$")  # as `half_written` names them
BUFFER = 1 << 20  # bytes: an archive's reader seeks from header to header, and each seek beyond it reads anew
POLL_S = 0.05  # between two looks at what is being written


def store(_scheme: str) -> Store:
    """The store of paths."""
    return Local()


class Local(Store):
    """Paths of this machine, absolute ones."""

    is_local = True

    def unfit(self, output: str, *, shared: bool) -> str | None:
        """Every path but one that is no text, or was meant as a URI; if it can be written shows at the first file."""
        if as_text(output) != output:  # what is listed there would not begin with it
            return f"the name has bytes that are not UTF-8, {as_text(output)}: choose another"
        return mistaken(output)

    def listing(self, prefix: str) -> Iterator[Entry]:
        """Files below a folder, those in linked folders too; a dangling link has the version MISSING."""
        folder = _path_of(prefix)
        if os.path.isdir(folder):
            yield from _walk(folder.rstrip("/") or "/")

    def stat(self, uri: str) -> Entry | None:
        """The file of exactly that name."""
        path = _path_of(uri)
        try:
            return _entry(path) if os.path.isfile(path) else None
        except FileNotFoundError:  # deleted meanwhile
            return None

    def check_access(self, uri: str) -> None:
        """Paths need no credentials, but the rights to get there."""
        with suppress(FileNotFoundError, NotADirectoryError):
            os.stat(_path_of(uri))

    def check_put(self, uri: str) -> None:
        """Write a nameless file where the first folder is that there is already."""
        if os.path.isdir(uri):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri)
        if os.path.exists(uri) and not os.path.isfile(uri):  # a file would take the place of a device or a pipe
            raise OSError("it is there and no file")
        folder = os.path.dirname(uri)
        while not os.path.lexists(folder):
            folder = os.path.dirname(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")

    def read(
        self, uri: str, start: int | None = None, stop: int | None = None, version: str = "", most: int | None = None
    ) -> bytes:
        """The file's bytes as they are now, whatever the version."""
        if most is not None:
            _check_size(_path_of(uri), most)
        with open(_path_of(uri), "rb") as file:
            if start:  # what is a pipe, such as the shell's <(...), has no positions
                file.seek(start)
            return file.read() if stop is None else file.read(stop - (start or 0))

    def open_stream(self, entry: Entry, *, pinned: bool = False) -> BinaryIO:
        """The open file, which stays the same one when it is replaced."""
        return open(_path_of(entry.uri), "rb", buffering=BUFFER)

    def put(self, uri: str, data: bytes) -> None:
        """Written beside it, then renamed."""
        with _written_beside(uri, data) as temporary:
            os.replace(temporary, uri)

    def create(self, uri: str, data: bytes) -> bool:
        """Written beside it, then linked: unlike rename, that fails when the name is taken."""
        with _written_beside(uri, data) as temporary:
            try:
                os.link(temporary, uri)
            except FileExistsError:
                if os.path.isdir(uri):  # who looks for the other's file would look for ever
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), uri) from None
                return False
        return True

    def replace(self, uri: str, data: bytes, version: str) -> bool:
        """Compared and renamed while the folder is locked, where its disk knows locks."""
        with _locked(os.path.dirname(uri)):
            there = self.stat(uri)
            if there is None or there.version != version:
                return False
            self.put(uri, data)
        return True

    def delete(self, uri: str) -> None:
        """Delete the file, if it is there."""
        Path(_path_of(uri)).unlink(missing_ok=True)

    def delete_below(self, prefix: str, last: str = "") -> None:
        """Delete the folder with all that is in it. Links in it are deleted, and what they lead to stays."""
        for folder, folders, files in os.walk(prefix, topdown=False, onerror=_unless_gone):
            paths = [os.path.join(folder, name) for name in files + folders]
            for path in sorted(paths, key=lambda path: path == last):
                if os.path.islink(path) or not os.path.isdir(path):
                    Path(path).unlink(missing_ok=True)
            with suppress(OSError):  # a link, or somebody has just written there
                os.rmdir(folder)

    def is_folder(self, uri: str) -> bool:
        """Whether there is a folder of exactly that name."""
        return os.path.isdir(_path_of(uri))

    def is_below(self, uri: str, folder: str) -> bool:
        """By their paths once all links are followed."""
        return (os.path.realpath(uri) + "/").startswith(os.path.realpath(folder).rstrip("/") + "/")

    def is_half_written(self, uri: str) -> bool:
        """Whether its name is one that only unfinished files have."""
        return HALF_WRITTEN.search(uri) is not None

    def sweep(self, folder: str, wait_s: float = 0) -> None:
        """Remove half-written files of this machine's processes that have exited; others get `wait_s` to exit."""
        deadline = time.monotonic() + wait_s
        while _sweep(folder) and time.monotonic() < deadline:
            time.sleep(POLL_S)


def _entry(path: str) -> Entry:
    status = os.stat(path)
    return Entry(as_text(path), status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def _check_size(path: str, most: int) -> None:
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise ObjectUnreadable("it is no file")  # opening a pipe waits for ever
    if status.st_size > most:
        raise TooLarge(status.st_size, most)


def _unless_gone(error: OSError) -> None:
    """Raise what `os.walk` would pass over: a folder that cannot be listed is not deleted."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _path_of(uri: str) -> str:
    r"""The file of a local URI: where none has that very name, `\xNN` stands for a byte that is not UTF-8."""
    if "\\x" not in uri or os.path.lexists(uri):
        return uri
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), uri)


def _walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Files below a folder in the order of their paths; a link to a folder above (a ring) is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    names, dangling = list[str](), set[str]()
    with os.scandir(folder) as scan:
        for item in scan:
            if item.is_dir() or item.is_file():
                names.append(item.name + ("/" if item.is_dir() else ""))
            elif item.is_symlink():
                dangling.add(item.name)
    for name in sorted([*names, *dangling]):
        path = os.path.join(folder, name.removesuffix("/"))
        if name.endswith("/"):
            yield from _walk(path, above | {real})
        elif name in dangling:
            yield Entry(as_text(path), 0, MISSING)  # it becomes a row with a reason, not a gap
        else:
            with suppress(FileNotFoundError):  # another run has renamed or deleted it since the folder was read
                yield _entry(path)


@contextmanager
def _locked(folder: str) -> Iterator[None]:
    """Alone in the block among processes of all nodes that see the folder; not alone where its disk has no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield
        return
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _written_beside(path: str, data: bytes) -> Iterator[str]:
    """A whole file beside `path` for the block to rename or link; it is removed afterwards, also after Ctrl-C."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    temporary = half_written(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def half_written(path: str) -> str:
    """The name under which this thread writes a file before it has its own: `sweep` knows whose it was."""
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.{threading.get_native_id()}.{_host()}-{os.getpid()}.tmp")


def _sweep(folder: str) -> bool:
    """Remove what processes that have exited left; whether one that runs is writing."""
    writing, mine = False, re.compile(rf"\.\d+\.{re.escape(_host())}-(\d+)\.tmp$")
    for entry in _walk(folder) if os.path.isdir("/proc/self") and os.path.isdir(folder) else ():
        match = mine.search(entry.uri) if HALF_WRITTEN.search(entry.uri) else None
        if match is not None:
            if _has_exited(int(match[1])):
                Path(_path_of(entry.uri)).unlink(missing_ok=True)
            else:
                writing = True
    return writing


def _host() -> str:
    """This machine's name, without dots: they part what else a half-written file's name tells."""
    return socket.gethostname().replace(".", "_")


def _has_exited(process: int) -> bool:
    """True if the process has exited, zombies included (containers often have no init)."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
