"""A row of the dataset becomes spans of decoded images: what is finished is jumped over, what fails becomes a row."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import output, plan_parts
from pipeline.columns import BASE, OK
from pipeline.decode import Decoded
from pipeline.decoder import Decoder
from pipeline.output import SpanFacts
from pipeline.settings import JobSpec
from pipeline.source.fetch import fetched
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Names, Position, Remote, Wanted
from pipeline.source.naming import LooseImage, Shard, Source
from pipeline.spans import Span, span_name
from pipeline.storage import Entry


@dataclass
class Loaded:
    """A span between reading and predicting.

    `facts` say where the span stands; its counts are filled in when it is written. `rows` has the base and the kept
    columns. `views` holds per view an (n, H, W, 3) uint8 array, or a list of (H, W, 3) arrays where sizes vary; images
    outside `todo` are black. `before` holds the finished rows to keep where the status is `copied`, `copied` their
    number. With `done` the span turned out to be finished: nothing but `facts` is set.
    """

    facts: SpanFacts
    rows: pa.Table = field(default_factory=lambda: pa.schema(BASE).empty_table())
    todo: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    views: list[Any] = field(default_factory=list)
    before: pa.Table | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    done: bool = False
    copied: int = 0


class Reader:
    """Reads and decodes for one job; holds the decoding child, so one per process is enough."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.decoder = Decoder(spec.decode)

    def __call__(self, span: Span) -> Iterator[Loaded]:
        """All spans of one dataset row, in order; take them one by one, each is large."""
        if span.stop is None:
            yield from self._shard(span)
            return
        before = self._before(span, span.name if span.kind == "images" else span_name(span.name, span.start))
        if span.kind == "images":
            yield self._span(span, span.name, 0, plan_parts.read_items(span), before)
        else:
            at = Position(span.offset, span.skip)
            items = _Ahead(self._items(span, at))
            yield self._shard_span(span, span.start, items, span.stop - span.start, at.names, before)

    def sample(self, sources: Iterable[Source], count: int) -> Loaded:
        """The first `count` images of these sources as one span; for `--dry-run`: nothing is looked up or written."""
        items = itertools.islice(itertools.chain.from_iterable(map(self._source_items, sources)), count)
        return self._span(Span("images", "", "sample", "", 0, count), "sample", 0, items, None)

    def _source_items(self, source: Source) -> Iterator[Item]:
        entry = source.entry
        if isinstance(source, LooseImage):
            return iter([Item(entry.uri, source.key, Remote(entry.uri))])
        return FORMATS[source.format].items(entry, self.spec.wanted, Position())

    def _shard(self, span: Span) -> Iterator[Loaded]:
        """Cut an unread shard into spans as it passes, then add its plan entry."""
        names = Names()
        pieces: list[dict[str, Any]] = []
        start, at, items = 0, Position(names=names), None
        most = span.most or 1 << 62
        while start < most:
            facts = output.find(self.spec.output, span_name(span.name, start))
            if facts is not None and facts.version == span.version and not (span.redo and facts.failed):
                yield Loaded(facts, done=True)
                self._learn_names(span, facts, names)
                items, at = None, Position(facts.next_offset, facts.next_skip, names)
            else:
                items = items or _Ahead(self._items(span, at))
                if items.peek() is None:
                    break
                before = self._before(span, span_name(span.name, start))
                size = min(self.spec.span_size, most - start)
                loaded = self._shard_span(span, start, items, size, names, before)
                facts = loaded.facts
                yield loaded
            pieces.append(plan_parts.where(facts))
            start += facts.images
        plan_parts.write_shard_entry(self.spec.output, span, pieces, repeated=names.repeated)

    def _learn_names(self, span: Span, facts: SpanFacts, names: Names) -> None:
        """Names that finished spans have used count for `~2` of later ones."""
        repeat = FORMATS[span.kind].names_repeat
        rows = output.read_rows(self.spec.output, facts.name, ["uri"]) if repeat else None
        if rows is not None:
            names.used.update(uri.removeprefix(f"{span.source}#") for uri in rows["uri"].to_pylist())
            names.repeated |= facts.repeated

    def _items(self, span: Span, at: Position) -> Iterator[Item]:
        return FORMATS[span.kind].items(Entry(span.source, span.size, span.version), self.spec.wanted, at)

    def _before(self, span: Span, name: str) -> pa.Table | None:
        """The rows of a finished file that a redo keeps."""
        rows = output.read_rows(self.spec.output, name) if span.redo else None
        if rows is None or span.redo == "failed":
            return rows if rows is None else rows.filter(pa.array([s == OK for s in rows["status"].to_pylist()]))
        return rows.filter(pa.array([uri not in span.changed for uri in rows["uri"].to_pylist()]))

    def _shard_span(
        self, span: Span, start: int, items: _Ahead, size: int, names: Names, before: pa.Table | None
    ) -> Loaded:
        """The next `size` images of a shard, with where they stand in it."""
        first = items.peek()
        loaded = self._span(span, span_name(span.name, start), start, itertools.islice(items, size), before)
        following = items.peek()
        shard = Entry(span.source, span.size, span.version)
        end = (FORMATS[span.kind].end(shard, start + loaded.facts.images), 0)
        offset, skip = (first.offset, first.skip) if first else end
        next_offset, next_skip = (following.offset, following.skip) if following else end
        loaded.facts = replace(
            loaded.facts,
            offset=offset,
            skip=skip,
            next_offset=next_offset,
            next_skip=next_skip,
            repeated=names.repeated,
        )
        return loaded

    def _span(self, span: Span, name: str, start: int, items: Iterable[Item], before: pa.Table | None) -> Loaded:
        kept = set(before["uri"].to_pylist()) if before is not None else set()
        rows: list[Item] = []
        answers: list[Decoded] = []
        clock = _Clock()
        for item in clock.timed("read", fetched(items, kept)):
            with clock.step("decode"):
                answers.append(Decoded("copied", None, None, None) if item.uri in kept else self._decode(item))
            item.data = b""
            rows.append(item)
        source = span.source if span.kind != "images" else ""
        facts = SpanFacts(name, source, span.version, start, len(rows), 0)
        table = self._table(rows, answers)
        todo = np.array([answer.status == OK for answer in answers], bool)
        copied = sum(answer.status == "copied" for answer in answers)
        return Loaded(facts, table, todo, self._views(answers), before, clock.seconds, copied=copied)

    def _decode(self, item: Item) -> Decoded:
        if isinstance(item.data, bytes):
            return self.decoder(item.data)
        status = "decode_error" if isinstance(item.data, ValueError) else "fetch_error"
        return Decoded(status, str(item.data), None, None)

    def _table(self, items: list[Item], answers: list[Decoded]) -> pa.Table:
        base = [
            [item.uri for item in items],
            [item.key for item in items],
            [answer.status for answer in answers],
            [answer.error for answer in answers],
            [answer.width for answer in answers],
            [answer.height for answer in answers],
        ]
        columns = [pa.array(values, f.type) for values, f in zip(base, BASE, strict=True)]
        kept = [
            pa.array([item.kept.get(name) for item in items], type_) for name, type_ in self.spec.wanted.types.items()
        ]
        extra = [pa.field(name, type_) for name, type_ in self.spec.wanted.types.items()]
        return pa.Table.from_arrays([*columns, *kept], schema=pa.schema([*BASE, *extra]))

    def _views(self, answers: list[Decoded]) -> list[Any]:
        """Per view all images of the span; black where there is none."""
        views: list[Any] = []
        for number, spec in enumerate(self.spec.decode.specs):
            shape = (*(spec.size or (1, 1)), 3)
            black = np.zeros(shape, np.uint8)
            pictures = [answer.views[number] if answer.views else black for answer in answers]
            views.append(np.stack(pictures) if spec.size and pictures else pictures)
        return views


def count_images(shard: Shard, wanted: Wanted, most: int) -> int:
    """How many images a shard holds, counted up to `most`; for `--limit`, which must know before the next shard."""
    items = FORMATS[shard.format].items(shard.entry, wanted, Position())
    return sum(1 for _ in itertools.islice(items, most))


class _Ahead:
    """An iterator of items that can show the next one."""

    def __init__(self, items: Iterator[Item]) -> None:
        self.items = items
        self.next: list[Item | None] = []

    def peek(self) -> Item | None:
        """The next item, None at the end."""
        if not self.next:
            self.next = [next(self.items, None)]
        return self.next[0]

    def __iter__(self) -> Iterator[Item]:
        while (item := self.peek()) is not None:
            self.next = []
            yield item


class _Clock:
    """Seconds per step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def step(self, name: str) -> _Step:
        """A context whose time counts for that step."""
        return _Step(self, name)

    def timed(self, name: str, items: Iterable[Item]) -> Iterator[Item]:
        """The items, the time of getting each counted for that step."""
        source = iter(items)
        while True:
            with self.step(name):
                item = next(source, None)
            if item is None:
                return
            yield item


class _Step:
    def __init__(self, clock: _Clock, name: str) -> None:
        self.clock, self.name = clock, name

    def __enter__(self) -> None:
        self.began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        spent = time.perf_counter() - self.began
        self.clock.seconds[self.name] = self.clock.seconds.get(self.name, 0.0) + spent
