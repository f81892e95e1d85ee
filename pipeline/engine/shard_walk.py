"""A shard is cut into spans as it passes: what is finished is skipped, and at its end its plan entry is added."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from pipeline.engine.open_span import FinishedSpan, OpenShardSpan, OpenSpan
from pipeline.engine.redo import holds_own_row, kept, these
from pipeline.engine.shard_stream import ShardStream
from pipeline.output.receipts import Reading, Receipt
from pipeline.output.span_file import SpanFacts, find, read_rows
from pipeline.plan import entry_file
from pipeline.plan.entry_file import PlacedSpan, ShardContent
from pipeline.plan.names import span_name
from pipeline.plan.rows import Redo, UnreadShard
from pipeline.source.format import FORMATS
from pipeline.source.item import Names, Position
from pipeline.spec import JobSpec


class ShardWalk:
    """One pass over a shard of which this version has no plan entry, or of which some spans are to be read again.

    Where it was read further before, and finished spans lie behind, what stops it now passes: nothing is given from
    there on, and what is known and finished stays.
    """

    def __init__(self, spec: JobSpec, row: UnreadShard) -> None:
        self.spec, self.row, self.shard, self.place = spec, row, row.shard, spec.place
        self.format = FORMATS[row.shard.format]
        self.most_images = spec.bound.span_size.shard
        self.known = entry_file.known_before(spec.place, row)
        self.done: list[PlacedSpan] = []
        self.start = 0  # the next image
        self.names = Names()  # of members up to there; an open stream adds those that it has looked at
        self.stream: ShardStream | None = None
        self.opens_at = (0, 0)  # offset and skip from which the stream reads, once it is opened
        self.has_ended = self.ends_early = False

    def spans(self) -> Iterator[Receipt | OpenSpan]:
        """As `Reader.spans` gives them. The entry is not added where --limit stops the walk before the shard's end."""
        while (size := self._size()) > 0 and not self.has_ended:
            facts = self._find(self.start)
            again, goes_on = self._again(facts)
            if facts is not None and not goes_on:
                yield self._finished(facts) if again is None else self._redone(facts, again)
                self._skip(facts, size)
            else:
                earlier = FinishedSpan(facts, again) if facts is not None and again is not None else None
                span = self._next_span(size, earlier)
                if span is None:
                    break
                yield span
                facts, _ = span.close()
            self.done.append(PlacedSpan.of(facts))
            self.start += facts.images
            if facts.images < size:
                break
        if self.has_ended or self._opened().peek() is None:
            self._enter()

    def _size(self) -> int:
        """Images of the next span, at most."""
        return self.most_images if self.row.most is None else min(self.most_images, self.row.most - self.start)

    def _opened(self) -> ShardStream:
        """The shard from the next image on."""
        if self.stream is None:
            self.stream = ShardStream(self.spec, self.row, Position(*self.opens_at, self.names))
        return self.stream

    def _skip(self, facts: SpanFacts, size: int) -> None:
        """Skip a finished span."""
        self._learn_names(facts)
        self.stream, self.opens_at = None, (facts.next_offset, facts.next_skip)
        self.ends_early = self._has_own_row(facts)  # reading on would give it again
        self.has_ended = self.ends_early or facts.images < size

    def _next_span(self, size: int, earlier: FinishedSpan | None) -> OpenSpan | None:
        """The next span, to be read; None where there is none, or none that may be written."""
        stream = self._opened()
        first = stream.peek()
        if first is None or (first is stream.own and not self._takes_own_row()):
            return None
        self._reopen()
        return OpenShardSpan(stream, self.start, size, takes_own_row=self._takes_own_row, earlier=earlier)

    def _find(self, start: int) -> SpanFacts | None:
        """The facts of the span that begins there, if it is finished in this version."""
        facts = find(self.place, span_name(self.shard.name, start))
        return facts if facts is not None and facts.version == self.shard.version else None

    def _finished(self, facts: SpanFacts) -> Receipt:
        """What a span reports that is passed by."""
        read = facts.next_offset - facts.offset if self.format.counts_bytes else 0
        return Receipt.of_finished(facts, Reading(max(0, read)))

    def _again(self, facts: SpanFacts | None) -> tuple[pa.Table | None, bool]:
        """The rows of a finished span of which some are done again, if any, and whether what is behind it is added."""
        if facts is None:
            return None, False
        known, goes_on = self.known, self._was_cut_short(facts)
        if known is not None and (known.reopened or facts.start + facts.images < known.images):
            goes_on |= self._has_own_row(facts)
        elif self.row.finished > facts.start + self.most_images and self._has_own_row(facts):
            goes_on |= self._is_finished_behind(facts.start)  # by another run, which could read on
        if not goes_on and not (facts.failed and self.row.retry_failed):
            return None, False
        rows = read_rows(self.place, facts.name)
        return rows, goes_on or holds_own_row(rows, self.shard.uri)

    def _was_cut_short(self, facts: SpanFacts) -> bool:
        """Whether --limit has ended a finished span that is now to have more images: it is written again whole."""
        row, known, stop = self.row, self.known, facts.start + facts.images
        if facts.images >= self.most_images or (row.most is not None and stop >= row.most):
            return False
        if self._has_own_row(facts) or (known is not None and known.images == stop and not known.reopened):
            return False
        return ShardStream(self.spec, row, Position(facts.next_offset, facts.next_skip)).peek() is not None

    def _has_own_row(self, facts: SpanFacts) -> bool:
        """Whether a finished span ends with its shard's own row, forgotten or not: the shard could not be read on."""
        if facts.next_offset != self.format.end(self.shard.entry, facts.start + facts.images):
            return False  # most spans, without a request: behind that row there is nothing
        if facts.source in facts.forgotten:
            return True
        return facts.failed > 0 and holds_own_row(read_rows(self.place, facts.name, ["uri"]), facts.source)

    def _redone(self, facts: SpanFacts, rows: pa.Table) -> OpenSpan:
        """A finished span whose failed rows are done again."""
        at = Position(facts.offset, facts.skip, self._names_before())
        items = self.format.items(self.shard.entry, self.spec.wanted, at)
        forgotten = {*facts.forgotten, *self.row.forgotten}
        return OpenSpan(facts, these(items, rows, facts), kept(rows, Redo(failed=True)), forgotten)

    def _names_before(self) -> Names:
        """The names of members before the next image, which an open stream may have looked at."""
        found = self.names.copy()
        if self.stream is not None and self.stream.looked_at is not None:
            found.used.discard(self.stream.looked_at.uri.removeprefix(f"{self.shard.uri}#"))
        return found

    def _learn_names(self, facts: SpanFacts) -> None:
        """Names that finished spans have used count for `~2` of later ones."""
        rows = read_rows(self.place, facts.name, ["uri"]) if self.format.names_repeat else None
        if rows is not None:
            uris = [*rows["uri"].to_pylist(), *facts.forgotten]
            self.names.used.update(uri.removeprefix(f"{self.shard.uri}#") for uri in uris)
            self.names.repeated |= facts.repeated

    def _takes_own_row(self) -> bool:
        """Whether the shard's own row may end the next span, where it cannot be read on.

        It may not where finished spans lie behind, nor behind the end that was known.
        """
        if self.known is not None and not self.known.ends_early and self.start == self.known.images:
            return False
        return not self._is_finished_behind(self.start)

    def _is_finished_behind(self, start: int) -> bool:
        """Whether a span behind the one that begins there is finished."""
        stop = max(self.row.finished, self.known.images if self.known is not None else 0)
        return any(self._find(at) is not None for at in range(start + self.most_images, stop, self.most_images))

    def _reopen(self) -> None:
        """Have the plan say that its shard is read on, where the next span may do so."""
        known, entered = self.known, self.row.entered
        if known is None or not known.ends_early or (entered is not None and entered.is_reopened):
            return
        if self.start + self.most_images >= known.images:
            self.row = entry_file.reopen_shard(self.place, self.row, known)

    def _enter(self) -> None:
        """Add the plan entry of a shard that was read as far as it can be, unless it was read further before.

        What is lacking of one that was is found by the audit, and finished files behind it are not surplus.
        """
        known, images = self.known, sum(span.images for span in self.done)
        ends_early = self.ends_early or (self.stream is not None and self.stream.own is not None)
        if ends_early:
            was_further = self._is_finished_behind(self.done[-1].start if self.done else -self.most_images)
        else:
            was_further = known is not None and images < known.images and not known.ends_early
        is_known = known is not None and not known.reopened and (images, ends_early) == (known.images, known.ends_early)
        if not (was_further or is_known):
            content = ShardContent(tuple(self.done), self.names.repeated, ends_early)
            entry_file.write_shard_entry(self.place, self.row, content)
