"""Images that are objects of their own: their bytes, read ahead of their use."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source.item import Item, Unfetched


def fetched(items: Iterable[Item], passed_by: Collection[str] = ()) -> Iterator[Item]:
    """The items in their order, each with its bytes or the reason why it has none.

    Many objects are asked for at a time, as `storage.in_parallel` does. Items whose uri is in `passed_by` are not
    fetched; they come with empty bytes.
    """

    def fetch(item: Item) -> Item:
        if item.uri in passed_by:
            item.data = b""
        elif isinstance(item.data, Unfetched):
            item.data = _bytes(item.data)
        return item

    stream = iter(items)
    for item in stream:
        if isinstance(item.data, Unfetched):  # from here on; shards that bring their bytes need no threads
            yield from storage.in_parallel(fetch, itertools.chain([item], stream))
        else:
            yield fetch(item)


def _bytes(remote: Unfetched) -> bytes | Exception:
    data = storage.try_read(remote.uri)
    return ObjectUnreadable(f"{remote.uri}: {data}") if remote.named and isinstance(data, Exception) else data
