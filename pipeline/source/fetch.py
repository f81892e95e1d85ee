"""Images that are objects of their own: their bytes, read ahead of their use."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source.item import LARGEST, Item, Unfetched

AHEAD = 16 << 20  # bytes of an object that is read ahead; a larger one is read when it is its turn, and no other then


def fetched(items: Iterable[Item], undone: Collection[str] = ()) -> Iterator[Item]:
    """The items in their order, each with its bytes or the reason why it has none.

    Many objects are asked for at a time, as `storage.in_parallel` does. Items whose uri is in `undone` are not
    fetched; they come with empty bytes. Memory: AHEAD for each object that is asked for, and one of LARGEST bytes.
    """

    def fetch(item: Item) -> Item:
        if item.uri in undone:
            item.data = b""
        elif isinstance(item.data, Unfetched):
            item.data = _bytes(item.data, AHEAD)
        return item

    stream = iter(items)
    for item in stream:
        if isinstance(item.data, Unfetched):  # from here on; shards that bring their bytes need no threads
            for one in storage.in_parallel(fetch, itertools.chain([item], stream)):
                if isinstance(one.data, Unfetched):
                    one.data = _bytes(one.data, LARGEST)
                yield one
        else:
            yield fetch(item)


def _bytes(remote: Unfetched, most: int) -> bytes | Unfetched | Exception:
    """The object's bytes, or why there are none; the object as it is where it has more than `most`, but not LARGEST."""
    data = storage.try_read(remote.uri, most)
    if isinstance(data, storage.TooLarge):
        if data.size <= LARGEST:
            return remote
        data = storage.TooLarge(data.size, LARGEST)
    if remote.named and isinstance(data, Exception):
        kind = ValueError if isinstance(data, ValueError) else ObjectUnreadable
        return kind(f"{remote.uri}: {data}")
    return data
