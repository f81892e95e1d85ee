"""Where bytes live. Outside this package a URI is plain text, and no code depends on its store.

store.py      what every store can do (`Store`), and the `Entry` of one object
registry.py   which store has a URI: one line per scheme
local.py      paths of this machine
s3.py         `s3://` · s3_errors.py what its answers mean
other.py      whatever else fsspec opens: `gs://`, `https://`, `memory://`
remote.py     what stores beyond this machine share
patience.py   how long a storage that fails is asked again; `quick`, `patient`
host.py       how gently: requests in flight to each host
ranged.py     objects as seekable files: `Blocks` reads ahead, `Ranges` reads just what is asked, under a `Meter`
parallel.py   many requests under way, their answers in order
uris.py       URIs as text

A URI is `s3://bucket/key`, an absolute local path, or anything else that fsspec opens. URIs are verbatim: nothing is
escaped or decoded, so keys with spaces, `#`, `%`, `*` or unicode work as they are.
The functions below are the methods of `Store`, which says what they do and raise, for the store that has the URI.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable, StorageError
from pipeline.storage.local import half_written
from pipeline.storage.parallel import in_parallel
from pipeline.storage.patience import be_patient, patient, quick
from pipeline.storage.registry import store_for
from pipeline.storage.store import MISSING, Entry, Store, TooLarge
from pipeline.storage.uris import SCHEME, absolute, as_text, followed, is_relative, join, mistaken, named_in

__all__ = [
    "MISSING", "SCHEME", "Entry", "Store", "TooLarge", "absolute", "as_text", "be_patient", "cause", "cause_and_file",
    "check_access", "check_put", "checking", "create", "delete", "delete_below", "followed", "half_written",
    "in_parallel", "is_below", "is_folder", "is_half_written", "is_local", "is_relative", "join", "listing",
    "mistaken", "named_in", "open_stream", "patient", "put", "quick", "read", "read_many", "reason", "replace", "stat",
    "store_for", "sweep", "try_read", "unfit",
]  # fmt: skip


def is_local(uri: str) -> bool:
    """Whether the URI is a path of this machine."""
    return store_for(uri).is_local


def unfit(output: str, *, shared: bool) -> str | None:
    """Why a job cannot write there, None if it can. `shared`: several processes write. Nothing is requested."""
    return store_for(output).unfit(output, shared=shared)


def listing(prefix: str) -> Iterator[Entry]:
    """Every object below a folder-like prefix, in the order of their keys; nothing for one that does not exist."""
    return store_for(prefix).listing(prefix)


def stat(uri: str) -> Entry | None:
    """The object itself, None when there is none of exactly that name."""
    return store_for(uri).stat(uri)


def check_access(uri: str) -> None:
    """Raise CredentialsLost where there are no credentials or they are refused; the object may be missing."""
    store_for(uri).check_access(uri)


def check_put(uri: str) -> None:
    """Raise what `put` would raise, as far as that shows without a file of that name; nothing is left behind."""
    store_for(uri).check_put(uri)


def read(uri: str, start: int | None = None, stop: int | None = None, version: str = "") -> bytes:
    """All bytes of an object, or those of [start, stop); on S3 only of this version, if one is given."""
    return store_for(uri).read(uri, start, stop, version)


def open_stream(entry: Entry, *, pinned: bool = False) -> BinaryIO:
    """A seekable, buffered byte stream over an object; `pinned`: on S3, of this version only. The caller closes it."""
    return store_for(entry.uri).open_stream(entry, pinned=pinned)


def put(uri: str, data: bytes) -> None:
    """Write an object whole: after a crash at any moment it is the old one or the new one, never a part."""
    store_for(uri).put(uri, data)


def create(uri: str, data: bytes) -> bool:
    """Write an object whole unless one of that name exists. True for exactly one of several writers."""
    return store_for(uri).create(uri, data)


def replace(uri: str, data: bytes, version: str) -> bool:
    """Write an object whole if it still has this version. True for one of several writers where the store can tell."""
    return store_for(uri).replace(uri, data, version)


def delete(uri: str) -> None:
    """Delete one object; one that is not there is no error."""
    store_for(uri).delete(uri)


def delete_below(prefix: str, last: str = "") -> None:
    """Delete every object below a prefix, `last` after all others, and the folders they leave empty."""
    store_for(prefix).delete_below(prefix, last)


def is_folder(uri: str) -> bool:
    """Whether it is a folder of exactly that name; False where there are only keys."""
    return store_for(uri).is_folder(uri)


def is_below(uri: str, folder: str) -> bool:
    """Whether an object or folder lies in a folder-like place or is that place, whatever links lead there."""
    return store_for(uri).is_below(uri, folder)


def is_half_written(uri: str) -> bool:
    """Whether it is a file that `put` or `create` leaves when its process dies."""
    return store_for(uri).is_half_written(uri)


def sweep(folder: str, wait_s: float = 0) -> None:
    """Remove half-written files below a folder whose processes have exited; running ones get `wait_s` to exit."""
    store_for(folder).sweep(folder, wait_s)


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


def cause(error: Exception) -> str:
    """Why something cannot be done, in the words of the system, for who has given the command."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def cause_and_file(error: Exception) -> str:
    """`cause`, with the file that an error of the disk is about."""
    name = getattr(error, "filename", None)
    return f"{cause(error)} ({name})" if name else cause(error)


@contextmanager
def checking(what: str) -> Iterator[None]:
    """Around a command's first look at a place, before anything has begun: what stands in its way is exit 2, at once.

    Raises ConfigError, which begins with `what`, for all that a store raises; of what may pass only throttling is
    waited for.
    """
    try:
        with quick():
            yield
    except CredentialsLost as error:
        raise ConfigError(str(error)) from error
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"{what}: {cause(error)}") from error


def try_read(uri: str, most: int | None = None) -> bytes | Exception:
    """`read`, with the reason in place of the bytes when this one object cannot be read, or is larger than `most`."""
    try:
        return store_for(uri).read(uri, most=most)
    except StorageError:  # the storage's fault, which the next object would meet too
        raise
    except TooLarge as error:
        return error
    except Exception as error:  # whatever is wrong with one object costs one row
        return ObjectUnreadable(reason(error))


def read_many(uris: list[str], most: int | None = None) -> Iterator[bytes | Exception]:
    """`try_read` of the objects in the order asked for, by `in_parallel` where any lies beyond this machine."""
    one = functools.partial(try_read, most=most)
    return map(one, uris) if all(map(is_local, uris)) else in_parallel(one, uris)
