"""A row of the dataset becomes spans of decoded images: what is finished is jumped over, what fails becomes a row."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.decode.decode import Decoded
from pipeline.decode.decoder import Decoder
from pipeline.output.columns import BASE, OK
from pipeline.output.span_file import SpanFacts, find, read_rows
from pipeline.plan import files
from pipeline.plan.files import PlacedSpan, ShardContent
from pipeline.plan.names import span_name
from pipeline.plan.rows import LooseSpan, Redo, Row, ShardRef, ShardSpan, UnreadShard
from pipeline.source.fetch import fetched
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Names, Position, Remote
from pipeline.source.naming import LooseImage, Source
from pipeline.spec import JobSpec


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

    def __call__(self, row: Row) -> Iterator[Loaded]:
        """All spans of one dataset row, in order; take them one by one, each is large."""
        if isinstance(row, LooseSpan):
            before = self._before(row.name, row.redo)
            facts = SpanFacts(row.name, "", row.version, 0, 0, 0)
            yield self._span(facts, files.read_items(row), before)
        elif isinstance(row, ShardSpan):
            at = Position(row.offset, row.skip)
            yield self._shard_span(
                row.shard, row.start, self._ahead(row.shard, at), row.stop - row.start, at.names, None
            )
        else:
            yield from self._unread(row)

    def sample(self, sources: Iterable[Source], count: int) -> Loaded:
        """The first `count` images of these sources as one span; for `--dry-run`: nothing is looked up or written."""
        items = itertools.islice(itertools.chain.from_iterable(map(self._source_items, sources)), count)
        return self._span(SpanFacts("sample", "", "", 0, 0, 0), items, None)

    def _source_items(self, source: Source) -> Iterator[Item]:
        entry = source.entry
        if isinstance(source, LooseImage):
            return iter([Item(entry.uri, source.key, Remote(entry.uri))])
        return FORMATS[source.format].items(entry, self.spec.wanted, Position())

    def _unread(self, row: UnreadShard) -> Iterator[Loaded]:
        """Cut an unread shard into spans as it passes, then add its plan entry."""
        shard, redo = row.shard, Redo(failed=True) if row.retry_failed else None
        names = Names()
        spans: list[PlacedSpan] = []
        start, at, items = 0, Position(names=names), None
        while row.most is None or start < row.most:
            facts = find(self.spec.place, span_name(shard.name, start))
            if facts is not None and facts.version == shard.version and not (redo and facts.failed):
                yield Loaded(facts, done=True)
                self._learn_names(shard, facts, names)
                items, at = None, Position(facts.next_offset, facts.next_skip, names)
            else:
                items = items or self._ahead(shard, at)
                if items.peek() is None:
                    break
                before = self._before(span_name(shard.name, start), redo)
                size = self.spec.bound.span_size
                size = size if row.most is None else min(size, row.most - start)
                loaded = self._shard_span(shard, start, items, size, names, before)
                facts = loaded.facts
                yield loaded
            spans.append(PlacedSpan.of(facts))
            start += facts.images
        files.write_shard_entry(self.spec.place, row, ShardContent(tuple(spans), names.repeated))

    def _learn_names(self, shard: ShardRef, facts: SpanFacts, names: Names) -> None:
        """Names that finished spans have used count for `~2` of later ones."""
        repeat = FORMATS[shard.format].names_repeat
        rows = read_rows(self.spec.place, facts.name, ["uri"]) if repeat else None
        if rows is not None:
            names.used.update(uri.removeprefix(f"{shard.uri}#") for uri in rows["uri"].to_pylist())
            names.repeated |= facts.repeated

    def _ahead(self, shard: ShardRef, at: Position) -> _Ahead:
        return _Ahead(FORMATS[shard.format].items(shard.entry, self.spec.wanted, at))

    def _before(self, name: str, redo: Redo | None) -> pa.Table | None:
        """The rows of a finished file that a redo keeps."""
        rows = read_rows(self.spec.place, name) if redo else None
        if redo is None or rows is None:
            return None
        again = redo.again()
        keep = [not again(*pair) for pair in zip(rows["uri"].to_pylist(), rows["status"].to_pylist(), strict=True)]
        return rows.filter(pa.array(keep, pa.bool_()))

    def _shard_span(
        self, shard: ShardRef, start: int, items: _Ahead, size: int, names: Names, before: pa.Table | None
    ) -> Loaded:
        """The next `size` images of a shard, with where they stand in it."""
        first = items.peek()
        facts = SpanFacts(span_name(shard.name, start), shard.uri, shard.version, start, 0, 0)
        loaded = self._span(facts, itertools.islice(items, size), before)
        following = items.peek()
        end = (FORMATS[shard.format].end(shard.entry, start + loaded.facts.images), 0)
        offset, skip = (first.offset, first.skip) if first else end
        next_offset, next_skip = (following.offset, following.skip) if following else end
        facts = replace(loaded.facts, offset=offset, skip=skip, next_offset=next_offset, next_skip=next_skip)
        loaded.facts = replace(facts, repeated=names.repeated)
        return loaded

    def _span(self, facts: SpanFacts, items: Iterable[Item], before: pa.Table | None) -> Loaded:
        kept = set(before["uri"].to_pylist()) if before is not None else set()
        rows: list[Item] = []
        answers: list[Decoded] = []
        clock = _Clock()
        for item in clock.timed("read", fetched(items, kept)):
            with clock.step("decode"):
                answers.append(Decoded("copied", None, None, None) if item.uri in kept else self._decode(item))
            item.data = b""
            rows.append(item)
        table = self._table(rows, answers)
        todo = np.array([answer.status == OK for answer in answers], bool)
        copied = sum(answer.status == "copied" for answer in answers)
        views = self._views(answers)
        return Loaded(replace(facts, images=len(rows)), table, todo, views, before, clock.seconds, copied=copied)

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
