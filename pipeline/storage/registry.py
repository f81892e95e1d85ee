"""Which store has a URI. A new store is a file with a function `store(scheme)`, and one line here per scheme."""

from __future__ import annotations

from importlib import import_module

from pipeline.storage.store import Store
from pipeline.storage.uris import scheme_of

# Modules by scheme, imported when first needed: importing boto takes half a second, which a local run does not need.
STORES = {"": "local", "s3": "s3", "s3a": "s3"}
ANY_OTHER = "other"

_stores: dict[str, Store] = {}


def store_for(uri: str) -> Store:
    """The store of a URI; an unknown scheme raises when it is used."""
    scheme = scheme_of(uri)
    if scheme not in _stores:
        made: Store = import_module(f"pipeline.storage.{STORES.get(scheme, ANY_OTHER)}").store(scheme)
        _stores.setdefault(scheme, made)  # threads that came at once share one
    return _stores[scheme]


def register(scheme: str, store: Store) -> None:
    """Have this process find the URIs of a scheme in a store that lies outside of this package."""
    _stores[scheme] = store
