"""Which store has a URI. A new store is a file with a function `store(scheme)`, and one line here per scheme."""

from __future__ import annotations

import functools
from importlib import import_module

from pipeline.storage.store import Store
from pipeline.storage.uris import scheme_of

# Modules by scheme, imported when first needed: importing boto takes half a second, which a local run does not need.
STORES = {"": "local", "s3": "s3", "s3a": "s3"}
ANY_OTHER = "other"


def store_for(uri: str) -> Store:
    """The store of a URI; an unknown scheme raises when it is used."""
    return _store(scheme_of(uri))


@functools.cache
def _store(scheme: str) -> Store:
    store: Store = import_module(f"pipeline.storage.{STORES.get(scheme, ANY_OTHER)}").store(scheme)
    return store
