"""Rows of span files, in chunks of bounded size: as they are, or with the pictures that they speak of."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.copies.parts import ChangedError, Piece
from pipeline.copies.survey import Gap
from pipeline.copies.writer import Chunk, with_images
from pipeline.errors import ConfigError
from pipeline.images import UNREADABLE
from pipeline.output.span_file import SpanFacts, facts_and_rows, with_version
from pipeline.source.fetch import fetched
from pipeline.source.format import shard_at
from pipeline.source.item import Item, Position, Unfetched, Wanted
from pipeline.status import OK
from pipeline.storage.ranged import Meter

IMAGE, MASK = "image", "mask"
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # what `datasets` takes for an Image
SPANS_AHEAD = 4
AT_ONCE_BYTES, AT_ONCE = 16 << 20, 1024  # of pictures held before their rows are handed on
Found = Iterator[tuple[str, bytes | None]]  # uris and their pictures, None for those that cannot be read


def rows(gaps: Iterable[Gap]) -> Iterator[Chunk]:
    """The rows as they are. Raises ChangedError."""
    return (chunk for _, chunk in _read_ahead(gaps))


@dataclass(frozen=True)
class Pictured:
    """Rows with the column `image`, and the column `mask` as pictures too, unless it is one of those `kept`.

    `wanted` is what the output is bound to.
    """

    wanted: Wanted
    kept: tuple[str, ...] = ()

    def rows(self, gaps: Iterable[Gap]) -> Iterator[Chunk]:
        """As `rows`. Only images that are ok have pictures; those that cannot be read any more are null."""
        for facts, chunk in _read_ahead(gaps):
            if IMAGE in chunk.table.schema.names:
                raise ConfigError(f"--images: the output has a column {IMAGE} already (--keep {IMAGE})")
            yield from self._with_pictures(chunk, facts)

    def _with_pictures(self, chunk: Chunk, facts: SpanFacts) -> Iterator[Chunk]:
        statuses = chunk.table["status"].to_pylist()
        uris = [uri for uri, status in zip(chunk.table["uri"].to_pylist(), statuses, strict=True) if status == OK]
        pictures = aligned(uris, self._found(uris, facts)) if uris else iter(())
        left, held, size = chunk, list[bytes | None](), 0
        for status in statuses:
            picture = next(pictures) if status == OK else None
            held.append(picture)
            size += len(picture or b"")
            if (size >= AT_ONCE_BYTES or len(held) >= AT_ONCE) and len(held) < len(left.table):
                first, left = left.cut(len(held))
                yield self._put_in(first, held, facts.source)
                held, size = [], 0
        yield self._put_in(left, held, facts.source)

    def _put_in(self, chunk: Chunk, pictures: list[bytes | None], source: str) -> Chunk:
        table, names = chunk.table, [IMAGE]
        uris, statuses = table["uri"].to_pylist(), table["status"].to_pylist()
        if MASK in set(table.schema.names) - set(self.kept) and pa.types.is_binary(table.schema.field(MASK).type):
            column = table[MASK].combine_chunks()
            masks = _pictures(column, pa.nulls(len(column), pa.string()))
            table, names = table.set_column(table.schema.get_field_index(MASK), MASK, masks), [IMAGE, MASK]
        paths = [uri.removeprefix(f"{source}#").rpartition("/")[2] for uri in uris]
        table = table.append_column(IMAGE, _pictures(pa.array(pictures, pa.binary()), pa.array(paths, pa.string())))
        lost = tuple(status == OK and picture is None for status, picture in zip(statuses, pictures, strict=True))
        return Chunk(chunk.piece, table.cast(with_images(table.schema, names)), lost, chunk.behind)

    def _found(self, uris: list[str], facts: SpanFacts) -> Found:
        """What can be had of these images, in their order; others may be missing or in between."""
        if not facts.source:
            items: Iterator[Item] = (Item(uri, "", Unfetched(uri)) for uri in uris)
            return ((item.uri, _bytes(item)) for item in fetched(items))
        return self._in_shard(uris, facts)

    def _in_shard(self, uris: list[str], facts: SpanFacts) -> Found:
        try:
            if (found := shard_at(facts.source)) is None:
                return
            entry, form = found
            if entry.version == facts.version and not facts.repeated:
                items = form.items(entry, self.wanted, Position(facts.offset, facts.skip))
                known = frozenset(uris)
                for item in fetched(itertools.islice(items, facts.images)):
                    if item.uri in known:
                        yield item.uri, _bytes(item)
                return
            # Another version, or names that depend on all before them: what has these names now, from the beginning.
            names = {uri.removeprefix(f"{facts.source}#"): uri for uri in uris}
            for name, data in form.pick(entry, self.wanted, set(names), Meter(1 << 62)):
                yield names[name], data
        except UNREADABLE:
            return


def aligned(uris: list[str], found: Found) -> Iterator[bytes | None]:
    """A picture for each uri in turn, None for those that are not found in that order."""
    places, at = {uri: place for place, uri in enumerate(uris)}, 0
    for uri, picture in found:
        place = places.get(uri, -1)
        if place >= at:
            yield from itertools.repeat(None, place - at)
            yield picture
            at = place + 1
        if at == len(uris):
            return
    yield from itertools.repeat(None, len(uris) - at)


def _bytes(item: Item) -> bytes | None:
    return item.data if isinstance(item.data, bytes) else None


def _pictures(data: pa.Array, paths: pa.Array) -> pa.Array:
    """Null where there are no bytes."""
    return pa.StructArray.from_arrays([data, paths], fields=list(PICTURE), mask=data.is_null())


def _read_ahead(gaps: Iterable[Gap]) -> Iterator[tuple[SpanFacts, Chunk]]:
    """The spans in their order, a few of them read ahead of their use."""
    return storage.in_parallel(_read, gaps, SPANS_AHEAD)


def _read(gap: Gap) -> tuple[SpanFacts, Chunk]:
    try:
        entry, (facts, table) = with_version(gap.entry, facts_and_rows)
    except FileNotFoundError as error:
        raise ChangedError(str(error)) from error
    if entry != gap.entry:
        raise ChangedError(f"{entry.uri} was written anew")
    rows, stop = len(table), min(gap.stop, len(table))
    start = min(gap.start, stop)
    piece = Piece(gap.span, gap.entry.version, start, stop, rows, len(facts.forgotten))
    return facts, Chunk(piece, table.slice(start, stop - start))
