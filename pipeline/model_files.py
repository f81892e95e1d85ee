"""A model on this node: a local folder as it is, one in object storage or on the hub fetched once per node."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Literal

from beit_core import CheckpointError, ModelCard, load_card
from pipeline import hub, storage
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.plan.names import digest

COPIED = 1 << 20  # bytes at a time


def fetch(model: str, flag: str = "--model") -> Path:
    """The path of a model folder or file on this node; raises ConfigError, naming the flag, when there is none."""
    uri = storage.absolute(model)
    try:
        if not storage.is_local(uri):
            return _fetch_remote(uri)
        if os.path.exists(uri):
            return Path(uri)
        if from_hub := hub.HubModel.named(model):
            return hub.fetch(from_hub)
    except ConfigError as error:
        raise ConfigError(f"{flag} {model}: {error}") from error
    except (OSError, ObjectUnreadable) as error:
        raise ConfigError(f"{flag} {model}: cannot be fetched to this machine ({storage.cause(error)})") from error
    raise ConfigError(f"{flag} {model}: no such folder or file (a hub id looks like microsoft/beit-base-patch16-224)")


@functools.cache
def card(path: Path, semantics: Literal["original", "hf"] | None) -> ModelCard:
    """The card of a model on this node under these semantics; a cache in the task could not be sent to workers."""
    return load_card(path, semantics)


def read(model: str, flag: str = "--model") -> ModelCard:
    """The card of the model that a user names, which is called as there; raises ConfigError, naming the flag."""
    path, uri = fetch(model, flag), storage.absolute(model)
    try:
        found = load_card(path)
    except CheckpointError as error:
        raise ConfigError(f"{flag} {model}: {error}") from error
    if storage.is_local(uri) or found.name != path.name:
        return found
    return replace(found, name=uri.rstrip("/").rpartition("/")[2])  # and not after our cache's folder, a digest


def name_for_workers(model: str, path: Path | None = None) -> str:
    """The name under which workers find the model: an absolute path for a local one, else the URI or hub id.

    Of the hub they take the very commit that lies at `path`, if it is given.
    """
    if os.path.exists(model):
        return os.path.abspath(model)
    from_hub = hub.HubModel.named(model)
    return str(from_hub.at(path)) if from_hub and path else model


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beit-batch" / "models"


def _fetch_remote(uri: str) -> Path:
    try:
        single = None if uri.endswith("/") else storage.stat(uri)
        entries = [single] if single else list(storage.listing(uri))
    except (ObjectUnreadable, OSError) as error:
        raise ConfigError(storage.cause(error)) from error
    if not entries:
        raise ConfigError("nothing there")
    root = uri.rstrip("/") + "/" if not single else uri[: uri.rfind("/") + 1]
    content = "\n".join(f"{entry.uri} {entry.version}" for entry in entries)
    target = _cache() / digest(content, 32)
    with _alone(target):
        if not target.exists():
            _download(entries, root, target)
    return target / entries[0].uri[len(root) :] if single else target


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """One process of this node at a time: a thousand workers that start together fetch the weights once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target.with_name(f".{target.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, also by a kill
        yield


def _download(entries: list[storage.Entry], root: str, target: Path) -> None:
    """Into a folder beside the target, then renamed: other nodes may share this disk, and each sees it whole."""
    with tempfile.TemporaryDirectory(dir=target.parent, ignore_cleanup_errors=True) as temporary:
        for entry in entries:
            relative = entry.uri[len(root) :]
            if {"", ".", ".."} & set(relative.split("/")):  # `a//b` would become the path /b of this machine
                raise ConfigError(f"refuses a file named {relative}")
            path = Path(temporary, "model", relative)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(exist_ok=False)
            except (OSError, ValueError) as error:  # a name too long, or of a file and of a folder at the same time
                raise ConfigError(f"the file {relative} cannot be kept here ({error})") from error
            _copy(entry, path)
        try:
            Path(temporary, "model").rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was first
                raise


def _copy(entry: storage.Entry, path: Path) -> None:
    """In ranges: gigabytes in one request take longer on a slow line than a request is waited for."""
    if not entry.size:  # which some web servers do not tell
        path.write_bytes(storage.read(entry.uri))
        return
    with storage.open_stream(entry, pinned=True) as stream, path.open("wb") as file:
        shutil.copyfileobj(stream, file, COPIED)
