"""Rows of the dataset become spans to be read: what is finished is skipped, what fails becomes a row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline import storage
from pipeline.engine.open_span import OpenShardSpan, OpenSpan
from pipeline.engine.redo import kept
from pipeline.engine.shard_stream import ShardStream
from pipeline.engine.shard_walk import ShardWalk
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts, as_it_is, facts_and_rows, find
from pipeline.plan import part_file
from pipeline.plan.rows import LooseSpan, Row, ShardSpan
from pipeline.source.item import Position
from pipeline.spec import JobSpec


@dataclass(frozen=True)
class Reader:
    """Opens the spans of rows, for one job. It holds no state, so threads may share it."""

    spec: JobSpec

    def spans(self, row: Row) -> Iterator[Receipt | OpenSpan]:
        """The spans of one row, in order: the receipt of one that was finished already, or one to be read.

        The items of an open span have to be taken before the next span is asked for.
        """
        if isinstance(row, LooseSpan):
            yield self._loose(row)
        elif isinstance(row, ShardSpan):
            yield from self._shard_span(row)
        else:
            yield from ShardWalk(self.spec, row).spans()

    def _loose(self, row: LooseSpan) -> Receipt | OpenSpan:
        if (done := self._done_meanwhile(row)) is not None:
            return Receipt.of_finished(done)
        facts = SpanFacts(row.name, "", row.version, 0, row.stop - row.start, 0)
        return OpenSpan(facts, part_file.read_items(row), self._before(row), row.forgotten)

    def _shard_span(self, row: ShardSpan) -> Iterator[OpenSpan]:
        stream = ShardStream(self.spec, row, Position(row.offset, row.skip))
        first = stream.peek()
        if first is not None and first is not stream.own:
            yield OpenShardSpan(stream, row.start, row.stop - row.start, takes_own_row=lambda: False)
        # Else the shard is gone, another by now, or may not be read: the run's second pass has it walked.

    def _done_meanwhile(self, row: LooseSpan) -> SpanFacts | None:
        """The facts of a span that another run has finished since this one planned it."""
        facts = None if row.redo else find(self.spec.place, row.name)
        if facts is None or facts.version != row.version or not set(row.forgotten) <= set(facts.forgotten):
            return None
        return facts

    def _before(self, row: LooseSpan) -> pa.Table | None:
        """The rows of a finished file that a redo keeps: none of a version that neither it nor the plan knows."""
        entry = storage.stat(self.spec.place.span_file(row.name)) if row.redo is not None else None
        if row.redo is None or entry is None:
            return None
        facts, rows = as_it_is(entry, facts_and_rows)
        if facts.version == row.version:  # another run has done what had changed
            return kept(rows, replace(row.redo, uris=()))
        return kept(rows, row.redo) if facts.version == row.redo.version else None
