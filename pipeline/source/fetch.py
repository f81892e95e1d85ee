"""Images that are objects of their own: their bytes, read ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source.item import Item, Remote


def fetched(items: Iterable[Item], passed_by: Collection[str] = ()) -> Iterator[Item]:
    """The items in their order, each with its bytes or the reason why it has none.

    Up to `storage.PARALLEL` objects are asked for at a time, and as many results held. Items whose uri is in
    `passed_by` are not fetched; they come with empty bytes.
    """
    waiting: deque[tuple[Item, Future[bytes | Exception] | None]] = deque()
    pool = ThreadPoolExecutor(storage.PARALLEL)
    try:
        for item in items:
            if item.uri in passed_by:
                item.data = b""
            remote = item.data if isinstance(item.data, Remote) else None
            if remote is None and not waiting:
                yield item
                continue
            waiting.append((item, pool.submit(_bytes, remote) if remote else None))
            if len(waiting) >= storage.PARALLEL:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # an interrupted run waits for no silent server


def _bytes(remote: Remote) -> bytes | Exception:
    data = storage.try_read(remote.uri)
    return ObjectUnreadable(f"{remote.uri}: {data}") if remote.named and isinstance(data, Exception) else data


def _done(item: Item, future: Future[bytes | Exception] | None) -> Item:
    if future is not None:
        item.data = future.result()
    return item
