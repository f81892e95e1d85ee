"""The images of a finished span that is written again: which rows stay, and which images of its shard belong to it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.engine.shard_stream import ShardStream
from pipeline.errors import ObjectUnreadable
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import Redo
from pipeline.source.item import Item
from pipeline.status import OK


def holds_own_row(rows: pa.Table | None, shard: str) -> bool:
    """Whether the shard could not be read on in this span: what follows is not known."""
    return rows is not None and shard in rows["uri"].to_pylist()


def kept(rows: pa.Table, redo: Redo) -> pa.Table:
    """The rows of a finished file that a redo leaves as they are."""
    again = pc.is_in(rows["uri"], value_set=pa.array(redo.uris, pa.string()))
    if redo.failed:
        again = pc.or_(again, pc.not_equal(rows["status"], OK))
    return rows.filter(pc.invert(again))


def these(items: Iterator[Item], rows: pa.Table, facts: SpanFacts) -> Iterator[Item]:
    """Of a shard's images those of a finished span, in their order; what is not found has the reason in its place."""
    uris, left = rows["uri"].to_pylist(), set(facts.forgotten)
    place = {uri: index for index, uri in enumerate(uris)}
    reason: Exception = ObjectUnreadable("not found where it was in its shard")
    given = 0

    def missed(until: int) -> Iterator[Item]:
        for index in range(given, until):
            row = {name: rows[name].combine_chunks().slice(index, 1) for name in rows.column_names}
            yield Item(uris[index], row["key"][0].as_py(), reason, row, facts.offset)

    while given < len(uris) or left:
        item = next(items, None)
        if item is None:
            break
        index = place.get(item.uri, -1)
        if item.uri in left:
            left.remove(item.uri)
            yield item
        elif index >= given:
            yield from missed(index)
            given = index + 1
            yield item
        elif item.uri == facts.source and isinstance(item.data, Exception):
            reason = item.data
    yield from missed(len(uris))
    yield from (Item(uri, "", b"") for uri in sorted(left))


def read_on(stream: ShardStream, rest: Iterator[Item], rows: pa.Table, facts: SpanFacts) -> Iterator[Item]:
    """The images of a finished span that is written again, its shard's own row apart, and the rest of the stream.

    They come first in it. Of those that do not, as the shard cannot be read so far any more, rows stay as they are.
    """
    images = rows.filter(pc.not_equal(rows["uri"], facts.source))
    forgotten = set(facts.forgotten) - {facts.source}
    left = {*images["uri"].to_pylist(), *forgotten}
    found: list[Item] = []
    while (item := stream.peek()) is not None and item.uri in left:
        left.remove(item.uri)
        found.append(next(iter(stream)))
    why = [stream.own] if stream.own is not None else []
    yield from these(iter([*found, *why]), images, replace(facts, forgotten=tuple(sorted(forgotten))))
    yield from rest
