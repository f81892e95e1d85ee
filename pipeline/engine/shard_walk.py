"""A shard is cut into spans as it passes: what is finished is jumped over, and at its end its plan entry is added."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from pipeline.engine.open_span import OpenShardSpan, OpenSpan
from pipeline.engine.redo import holds_own_row, kept, these
from pipeline.engine.shard_stream import ShardStream
from pipeline.output.span_file import SpanFacts, find, read_rows
from pipeline.plan import files
from pipeline.plan.files import PlacedSpan, ShardContent
from pipeline.plan.names import span_name
from pipeline.plan.rows import Redo, UnreadShard
from pipeline.source.format import FORMATS
from pipeline.source.item import Names, Position
from pipeline.spec import JobSpec


class ShardWalk:
    """One pass over a shard of which this version has no plan entry, or of which some spans are to be read again.

    What counts as an image of a version is settled by whoever reads it first: positions are counted in images. Where it
    was read further before, and finished spans lie behind, what stops it now passes: nothing is given from there on,
    and what is known and finished stays.
    """

    def __init__(self, spec: JobSpec, row: UnreadShard) -> None:
        self.row, self.shard, self.place = row, row.shard, spec.place
        self.format = FORMATS[row.shard.format]
        self.known = files.known_before(spec.place, row)
        self.most_images = spec.bound.span_size.shard
        self.first = self._find(0)
        endings = self.known.image_endings if self.known is not None else ""
        if not endings and self.first is not None:
            endings = self.first.image_endings
        self.spec = replace(spec, wanted=spec.wanted.counting(endings))

    def _find(self, start: int) -> SpanFacts | None:
        """The facts of the span that begins there, if it is finished in this version."""
        facts = find(self.place, span_name(self.shard.name, start))
        return facts if facts is not None and facts.version == self.shard.version else None

    def spans(self) -> Iterator[SpanFacts | OpenSpan]:
        """As `Reader.spans` gives them. The entry is not added where --limit stops the walk before the shard's end."""
        at, stream = Position(), None
        spans: list[PlacedSpan] = []
        start, is_end, ends_early = 0, False, False
        while not is_end and self._size(start) > 0:
            facts = self._as_found(start, stream.place(start) if stream else (at.offset, at.skip))
            again, goes_on = self._again(facts)
            if facts is not None and not goes_on:
                yield facts if again is None else self._redone(facts, again, _names_before(stream, at))
                self._learn_names(facts, at.names)
                stream, at = None, Position(facts.next_offset, facts.next_skip, at.names)
                ends_early = self._has_own_row(facts)  # reading on would give it again
                is_end = ends_early or facts.images < self.most_images
            else:
                stream = stream or ShardStream(self.spec, self.row, at)
                if self._is_over(stream, start, found=facts is not None):
                    break
                self._reopen(start)
                span = OpenShardSpan(stream, start, self._size(start), facts, again)
                yield span
                facts = span.close()
            spans.append(PlacedSpan.of(facts))
            start += facts.images
        self._enter(spans, stream or ShardStream(self.spec, self.row, at), ends_early=ends_early)

    def _size(self, start: int) -> int:
        """Images of the span that begins there, at most."""
        return self.most_images if self.row.most is None else min(self.most_images, self.row.most - start)

    def _as_found(self, start: int, place: tuple[int, int]) -> SpanFacts | None:
        """The facts of the span that begins there if it is finished, and begins where the one before has ended.

        It does not where other files counted as images when it was read, as with another --unreadable.
        """
        facts = self._find(start) if start else self.first
        if facts is None or (start and (facts.offset, facts.skip) != place):
            return None
        if facts.image_endings not in ("", self.spec.wanted.image_endings):
            return None
        read = facts.next_offset - facts.offset if self.format.counts_bytes else 0
        return replace(facts, read_bytes=max(0, read))

    def _again(self, facts: SpanFacts | None) -> tuple[pa.Table | None, bool]:
        """The rows of a finished span of which some are done again, if any, and whether what is behind it is added."""
        if facts is None:
            return None, False
        known, goes_on = self.known, self._was_cut_short(facts)
        if known is not None and (known.reopened or facts.start + facts.images < known.images):
            goes_on |= self._has_own_row(facts)
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

    def _redone(self, facts: SpanFacts, rows: pa.Table, names: Names) -> OpenSpan:
        """A finished span whose failed rows are done again; `names` are those of members before it."""
        items = self.format.items(self.shard.entry, self.spec.wanted, Position(facts.offset, facts.skip, names))
        forgotten = {*facts.forgotten, *self.row.forgotten}
        return OpenSpan(facts, these(items, rows, facts), kept(rows, Redo(failed=True)), forgotten)

    def _learn_names(self, facts: SpanFacts, names: Names) -> None:
        """Names that finished spans have used count for `~2` of later ones."""
        rows = read_rows(self.place, facts.name, ["uri"]) if self.format.names_repeat else None
        if rows is not None:
            uris = [*rows["uri"].to_pylist(), *facts.forgotten]
            names.used.update(uri.removeprefix(f"{self.shard.uri}#") for uri in uris)
            names.repeated |= facts.repeated

    def _is_over(self, stream: ShardStream, start: int, *, found: bool) -> bool:
        """Whether no span begins at image `start`, or none that may be written.

        It may not where the shard's own row, in the place of images that were known, would cut off finished spans. A
        span that was `found` is only added to.
        """
        first, known = stream.peek(), None if found else self.known
        if first is None or known is None or first is not stream.own:
            return first is None
        if start == known.images:
            return not known.ends_early
        return self._is_finished_behind(start)

    def _is_finished_behind(self, start: int) -> bool:
        """Whether a span behind the one that begins there is finished, of those that were known."""
        known = range(start + self.most_images, self.known.images if self.known is not None else 0, self.most_images)
        return any(self._find(at) is not None for at in known)

    def _reopen(self, start: int) -> None:
        """Have the plan say that its shard is read on, where the span at `start` may do so."""
        known = self.known
        if known is None or not known.ends_early or self.row.known.startswith(files.REOPENED):
            return
        if start + self.most_images >= known.images:
            self.row = files.reopen_shard(self.place, self.row, known)

    def _enter(self, spans: list[PlacedSpan], stream: ShardStream, *, ends_early: bool) -> None:
        """Add the plan entry of a shard that was read as far as it can be, unless finished spans lie behind.

        `ends_early`: a finished span has the shard's own row.
        """
        if not ends_early and stream.peek() is not None:
            return
        ends_early |= stream.own is not None
        images = sum(span.images for span in spans)
        if ends_early and self.known is not None and images < self.known.images:
            last = spans[-1].start if spans else -self.most_images
            if self._is_finished_behind(last):
                return
        content = ShardContent(tuple(spans), stream.names.repeated, self.spec.wanted.image_endings, ends_early)
        files.write_shard_entry(self.place, self.row, content)


def _names_before(stream: ShardStream | None, at: Position) -> Names:
    """The names of members before the next image, which an open stream has looked at."""
    found = at.names.copy()
    if stream is not None:
        found.used -= {item.uri.removeprefix(f"{stream.shard.uri}#") for item in filter(None, stream.ahead)}
    return found
