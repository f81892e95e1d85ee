"""A model on this node: a local folder as it is, one in object storage or on the hub fetched once per node."""

from __future__ import annotations

import fcntl
import functools
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from beit_core import ModelCard, load_card
from pipeline import storage
from pipeline.errors import ConfigError, CredentialsLost, ObjectUnreadable
from pipeline.plan.names import digest

HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
HUB_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin", "flax_model.msgpack")


def fetch(model: str) -> Path:
    """The path of a model folder or file on this node; raises ConfigError when there is none by that name."""
    uri = storage.absolute(model)
    if storage.is_local(uri) and os.path.exists(uri):
        return Path(uri)
    if not storage.is_local(uri):
        return _fetch_remote(uri)
    if HUB_ID.fullmatch(model):
        return _fetch_hub(model)
    raise ConfigError(f"--model {model}: no such folder or file (a hub id looks like microsoft/beit-base-patch16-224)")


@functools.cache
def card(path: Path, semantics: Literal["original", "hf"] | None) -> ModelCard:
    """The card of a model on this node under these semantics; a cache in the task could not be sent to workers."""
    return load_card(path, semantics)


def name_for_workers(model: str) -> str:
    """The name under which workers find the model: an absolute path for a local one, a URI or hub id as it is."""
    return os.path.abspath(model) if os.path.exists(model) else model


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "beit-batch" / "models"


def _fetch_remote(uri: str) -> Path:
    try:
        single = None if uri.endswith("/") else storage.stat(uri)
        entries = [single] if single else list(storage.listing(uri))
    except CredentialsLost:
        raise
    except (ObjectUnreadable, OSError) as error:
        raise ConfigError(f"--model {uri}: {storage.reason(error)}") from error
    if not entries:
        raise ConfigError(f"--model {uri}: nothing there")
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
                raise ConfigError(f"--model {root}: refuses a file named {relative}")
            path = Path(temporary, "model", relative)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(storage.read(entry.uri))
        try:
            Path(temporary, "model").rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was first
                raise


def _fetch_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(model, allow_patterns=list(HUB_FILES)))
    except RepositoryNotFoundError as error:
        raise ConfigError(f"--model {model}: no such folder here and no such model on the hub") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise ConfigError(
            f"--model {model}: no such folder here, and the hub cannot be reached ({type(error).__name__}); "
            "download the model elsewhere and give its folder"
        ) from error
