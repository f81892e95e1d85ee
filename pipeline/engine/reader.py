"""Rows of the dataset become spans to be read: what is finished is jumped over, what fails becomes a row."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline import storage
from pipeline.engine.redo import holds_own_row, kept, read_on, these
from pipeline.engine.shard_stream import ShardStream
from pipeline.output.span_file import SpanFacts, as_it_is, facts_and_rows, find, read_rows
from pipeline.plan import files
from pipeline.plan.files import Known, PlacedSpan, ShardContent
from pipeline.plan.names import digest, span_name
from pipeline.plan.rows import LooseSpan, Redo, Row, ShardRef, ShardSpan, UnreadShard
from pipeline.source.fetch import fetched
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Names, Position
from pipeline.source.passed import PHOTOS
from pipeline.spec import JobSpec


class OpenSpan:
    """A span whose images are being read: take all `items`, in order; then `close` says where the span stands.

    Items have bytes, or the reason why there are none. `before` holds the finished rows that are kept. Their images and
    the forgotten ones are `undone`: they come without bytes and are not decoded.
    """

    def __init__(
        self, facts: SpanFacts, items: Iterator[Item], before: pa.Table | None, forgotten: Collection[str] = ()
    ) -> None:
        self.facts, self.before = facts, before
        self.undone = frozenset(before["uri"].to_pylist() if before is not None else ()).union(forgotten)
        self.items = fetched(items, self.undone)

    def close(self) -> SpanFacts:
        """What is known once all items are taken; its counts are filled in when the span is written."""
        return self.facts


class _OpenShardSpan(OpenSpan):
    """The next `size` images of a shard, which may be fewer."""

    def __init__(
        self, stream: ShardStream, start: int, size: int, found: SpanFacts | None = None,
        again: pa.Table | None = None,
    ) -> None:  # fmt: skip
        """`found` and `again` are a finished file's facts and rows: the failed ones are done again, others added."""
        shard = stream.shard
        facts = SpanFacts(span_name(shard.name, start), shard.uri, shard.version, start, 0, 0)
        # Where a span's end is known, what stops it before will pass.
        items = iter(stream) if stream.is_unread else stream.images()
        if found is not None and again is not None:
            items = read_on(stream, again, found, size)
        before = None if again is None else kept(again, Redo(failed=True))
        super().__init__(facts, self._counted(itertools.islice(items, size)), before, stream.forgotten)
        self.stream, self.images, self.bytes = stream, 0, 0
        self.is_new, self.told = stream.is_unread and again is None, stream.told
        self.begin = stream.place(start)

    def _counted(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            self.images += 1
            self.bytes += item.size
            yield item

    def close(self) -> SpanFacts:
        (offset, skip), (next_offset, next_skip) = self.begin, self.stream.place(self.facts.start + self.images)
        facts = replace(self.facts, images=self.images, offset=offset, skip=skip, repeated=self.stream.names.repeated)
        self.stream.told = self.stream.passed.copy()
        unreadable = dict(self.stream.told - self.told) if self.is_new else {}
        read = next_offset - offset if self.stream.format.counts_bytes else self.bytes
        return replace(
            facts, next_offset=next_offset, next_skip=next_skip, unreadable=unreadable, read_bytes=max(0, read),
            kinds=self.stream.kinds if next_skip else "",
        )  # fmt: skip


def _redone(spec: JobSpec, row: UnreadShard, facts: SpanFacts, rows: pa.Table, names: Names) -> OpenSpan:
    """A finished span of a shard whose failed rows are done again: the same images, whatever counts as one by now.

    `names` are those of members before it, to which others are added.
    """
    wanted = replace(spec.wanted, endings=spec.wanted.endings | {ending.removeprefix(".") for ending in PHOTOS})
    at = Position(facts.offset, facts.skip, names)
    items = FORMATS[row.shard.format].items(row.shard.entry, wanted, at)
    forgotten = {*facts.forgotten, *row.forgotten}
    return OpenSpan(facts, these(items, rows, facts), kept(rows, Redo(failed=True)), forgotten)


def _names_before(stream: ShardStream | None, at: Position) -> Names:
    """The names of members before the next image, which an open stream has looked at."""
    found = at.names.copy()
    if stream is not None:
        found.used -= {item.uri.removeprefix(f"{stream.shard.uri}#") for item in filter(None, stream.ahead)}
    return found


@dataclass(frozen=True)
class Reader:
    """Opens the spans of rows, for one job. It holds no state, so threads may share it."""

    spec: JobSpec

    def spans(self, row: Row) -> Iterator[SpanFacts | OpenSpan]:
        """The spans of one row, in order: the facts of one that was finished already, or one to be read.

        The items of an open span have to be taken before the next span is asked for.
        """
        if isinstance(row, LooseSpan):
            yield self._done_meanwhile(row) or OpenSpan(
                SpanFacts(row.name, "", row.version, 0, row.stop - row.start, 0),
                files.read_items(row),
                self._before(row),
                row.forgotten,
            )
        elif isinstance(row, ShardSpan):
            stream = ShardStream(self.spec, row, Position(row.offset, row.skip))
            first = stream.peek()
            if first is not None and first.uri != row.shard.uri:
                yield _OpenShardSpan(stream, row.start, row.stop - row.start)
            # Else the shard is gone or another by now. There is nothing to give: the run's second pass lists it again,
            # and a row for the shard itself is given where it is read from its beginning.
        else:
            yield from self._unread(row)

    def _done_meanwhile(self, row: LooseSpan) -> SpanFacts | None:
        """The facts of a span that another run has finished since this one planned it."""
        facts = None if row.redo else find(self.spec.place, row.name)
        if facts is None or facts.version != row.version or not set(row.forgotten) <= set(facts.forgotten):
            return None
        return facts

    def _unread(self, row: UnreadShard) -> Iterator[SpanFacts | OpenSpan]:
        """Cut an unread shard into spans as it passes, then add its plan entry, unless --limit stops it before.

        Where this version was read further before, what stops it now passes: nothing is given from there on, and what
        is known and finished stays.
        """
        known = files.known_before(self.spec.place, row)
        at, stream = Position(), None
        spans: list[PlacedSpan] = []
        start, ends_early = 0, False
        while not ends_early and self._size(row, start) > 0:
            facts = self._as_found(row, start, stream.place(start) if stream else (at.offset, at.skip))
            again, goes_on = self._again(row, known, facts)
            if facts is not None and not goes_on:
                yield facts if again is None else _redone(self.spec, row, facts, again, _names_before(stream, at))
                self._learn_names(row.shard, facts, at.names)
                stream, at = None, Position(facts.next_offset, facts.next_skip, at.names)
                ends_early = self._has_own_row(row.shard, facts)  # reading on would give it again
            else:
                stream = stream or ShardStream(self.spec, row, at)
                if stream.has_ended(known if facts is None else None, start):
                    break
                row = self._reopened(row, known, start)
                span = _OpenShardSpan(stream, start, self._size(row, start), facts, again)
                yield span
                facts = span.close()
            spans.append(PlacedSpan.of(facts))
            start += facts.images
        self._enter(row, known, spans, stream or ShardStream(self.spec, row, at), ends_early=ends_early)

    def _reopened(self, row: UnreadShard, known: Known | None, start: int) -> UnreadShard:
        """The row, once the plan says that its shard is read on, where the span at `start` may do so."""
        if known is None or not known.ends_early or row.known.startswith(files.REOPENED):
            return row
        if start + self.spec.bound.span_size.shard < known.images:
            return row
        return files.reopen_shard(self.spec.place, row, known)

    def _enter(
        self, row: UnreadShard, known: Known | None, spans: list[PlacedSpan], stream: ShardStream, *, ends_early: bool
    ) -> None:
        """Add the plan entry of a shard that was read as far as it can be, unless it could be read further before.

        `ends_early`: a finished span has the shard's own row.
        """
        if not ends_early and stream.peek() is not None:
            return
        ends_early |= stream.own is not None
        if known is not None and sum(span.images for span in spans) < known.images:
            passes = stream.own is not None and not isinstance(stream.own.data, ValueError)
            is_less = known.kinds == stream.kinds and (ends_early or not known.ends_early)
            if passes or is_less:
                return
        content = ShardContent(tuple(spans), stream.names.repeated, stream.kinds, ends_early)
        files.write_shard_entry(self.spec.place, row, content)

    def _size(self, row: UnreadShard, start: int) -> int:
        """Images of the span that begins there, at most."""
        size = self.spec.bound.span_size.shard
        return size if row.most is None else min(size, row.most - start)

    def _again(self, row: UnreadShard, known: Known | None, facts: SpanFacts | None) -> tuple[pa.Table | None, bool]:
        """The rows of a finished span of which some are done again, if any, and whether what is behind it is added."""
        if facts is None:
            return None, False
        goes_on = self._was_cut_short(row, known, facts)
        if known is not None and (known.reopened or facts.start + facts.images < known.images):
            goes_on |= self._has_own_row(row.shard, facts)
        if not goes_on and not (facts.failed and row.retry_failed):
            return None, False
        rows = read_rows(self.spec.place, facts.name)
        return rows, goes_on or holds_own_row(rows, row.shard.uri)

    def _as_found(self, row: UnreadShard, start: int, place: tuple[int, int]) -> SpanFacts | None:
        """The facts of the span that begins there if it is finished, and begins where the one before has ended.

        It does not where the one before was read with other kinds of images, as with another --unreadable.
        """
        facts = find(self.spec.place, span_name(row.shard.name, start))
        if facts is None or facts.version != row.shard.version:
            return None
        if start and (facts.offset, facts.skip) != place:
            return None
        if facts.kinds not in ("", digest(self.spec.wanted.kinds, 8)):  # where it ends is counted in others
            return None
        read = facts.next_offset - facts.offset if FORMATS[row.shard.format].counts_bytes else 0
        return replace(facts, read_bytes=max(0, read))

    def _was_cut_short(self, row: UnreadShard, known: Known | None, facts: SpanFacts) -> bool:
        """Whether --limit has ended a finished span that is now to have more images: it is written again whole."""
        stop = facts.start + facts.images
        if facts.images >= self.spec.bound.span_size.shard or (row.most is not None and stop >= row.most):
            return False
        if self._has_own_row(row.shard, facts) or (known is not None and known.images == stop and not known.reopened):
            return False
        return ShardStream(self.spec, row, Position(facts.next_offset, facts.next_skip)).peek() is not None

    def _has_own_row(self, shard: ShardRef, facts: SpanFacts) -> bool:
        """Whether a finished span ends with its shard's own row, forgotten or not: the shard could not be read on."""
        if facts.next_offset != FORMATS[shard.format].end(shard.entry, facts.start + facts.images):
            return False  # most spans, without a request: behind that row there is nothing
        if facts.source in facts.forgotten:
            return True
        return facts.failed > 0 and holds_own_row(read_rows(self.spec.place, facts.name, ["uri"]), facts.source)

    def _learn_names(self, shard: ShardRef, facts: SpanFacts, names: Names) -> None:
        """Names that finished spans have used count for `~2` of later ones."""
        repeat = FORMATS[shard.format].names_repeat
        rows = read_rows(self.spec.place, facts.name, ["uri"]) if repeat else None
        if rows is not None:
            uris = [*rows["uri"].to_pylist(), *facts.forgotten]
            names.used.update(uri.removeprefix(f"{shard.uri}#") for uri in uris)
            names.repeated |= facts.repeated

    def _before(self, row: LooseSpan) -> pa.Table | None:
        """The rows of a finished file that a redo keeps: none of a version that neither it nor the plan knows."""
        entry = storage.stat(self.spec.place.span_file(row.name)) if row.redo is not None else None
        if row.redo is None or entry is None:
            return None
        facts, rows = as_it_is(entry, facts_and_rows)[1]
        if facts.version == row.version:  # another run has done what had changed
            return kept(rows, replace(row.redo, uris=()))
        return kept(rows, row.redo) if facts.version == row.redo.version else None
