"""The local disk: files listed in order, written whole, and swept of what dead processes left half-written."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

HALF_WRITTEN = re.compile(r"/\.[^/]+\.([^/]+)-(\d+)\.tmp$")  # as `written_beside` names them
POLL_S = 0.05  # between two looks at what is being written
MISSING = "missing"  # the version of an object that was named but is not there
Found = tuple[str, int, str]  # URI, size, version (of size and mtime)


def stat(path: str) -> Found:
    """The file itself; a name may be any bytes, a URI is text."""
    status = os.stat(path)
    uri = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return uri, status.st_size, f"{status.st_size}-{status.st_mtime_ns}"


def path_of(uri: str) -> str:
    r"""The file of a local URI: where none has that very name, `\xNN` stands for a byte that is not UTF-8."""
    if "\\x" not in uri or os.path.lexists(uri):
        return uri
    return re.sub(r"\\x([89a-f][0-9a-f])", lambda found: chr(0xDC00 + int(found[1], 16)), uri)


def walk(folder: str, above: frozenset[str] = frozenset()) -> Iterator[Found]:
    """Files below a folder in the order of their paths; a link to a folder above (a ring) is not followed."""
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as scan:
        items = sorted(scan, key=lambda item: item.name + ("/" if item.is_dir() else ""))
    for item in items:
        if item.is_dir():
            yield from walk(item.path, above | {real})
        elif item.is_file():
            with suppress(FileNotFoundError):  # another run has renamed or deleted it since the folder was read
                yield stat(item.path)
        elif item.is_symlink():
            yield item.path, 0, MISSING  # it leads nowhere: a row that says so, not a gap


@contextmanager
def written_beside(path: str, data: bytes) -> Iterator[str]:
    """A whole file beside `path` that the block renames or links; nothing of it stays, also after Ctrl-C."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{socket.gethostname()}-{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        Path(temporary).unlink(missing_ok=True)


def sweep(folder: str, wait_s: float) -> None:
    """Remove half-written files of this machine's processes that are no more; those that live have so long to end."""
    deadline = time.monotonic() + wait_s
    while _sweep(folder) and time.monotonic() < deadline:
        time.sleep(POLL_S)


def _sweep(folder: str) -> bool:
    """Whether a process that lives is writing."""
    writing = False
    for uri, _, _ in walk(folder) if os.path.isdir("/proc/self") else ():
        match = HALF_WRITTEN.search(uri)
        if match and match.group(1) == socket.gethostname():
            if _is_over(int(match.group(2))):
                Path(uri).unlink(missing_ok=True)
            else:
                writing = True
    return writing


def _is_over(process: int) -> bool:
    """Whether a process has ended, also one that nobody has buried: in a container there may be nobody to do it."""
    try:
        state = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state in "ZX"
