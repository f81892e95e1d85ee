"""Rows of forgotten images are removed: the files that hold them are written again without them, before the audit."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.output.bound import Bound
from pipeline.output.ledger import Ledger
from pipeline.output.span_file import SpanFacts, counted, facts_and_uris, rewrite_span, rows_as_written, with_version
from pipeline.plan import files
from pipeline.plan.names import shard_of
from pipeline.plan.planner import Planner
from pipeline.storage import Entry

AT_ONCE = 4  # files held in memory
TRIES = 10


def drop(planner: Planner, ledger: Ledger, bound: Bound) -> list[str]:
    """Rewrite every file that holds a forgotten image; returns the spans looked at, which `ledger` knows then."""
    planner.forgotten.learn(files.listing(planner.place).forgotten)
    ledger.refresh()
    names = list(planner.forgotten.uncleared(ledger))
    parts = planner.forgotten.next_number
    for cleared in storage.in_parallel(lambda name: _clear(planner, ledger.entry(name), bound), names, AT_ONCE):
        if cleared is not None:
            ledger.note(*cleared, parts)
    return names


def _clear(planner: Planner, entry: Entry, bound: Bound) -> tuple[Entry, SpanFacts] | None:
    """The file without forgotten images, and what it holds; None where it was deleted meanwhile.

    None also where it is of a version that the plan had not when it was read: an image may have come back in it.
    """
    for _ in range(TRIES):
        try:
            entry, (facts, uris) = with_version(entry, facts_and_uris)
            if not (shard_of(facts.name) or planner.loose.knows(facts)):
                return None
            held = frozenset(planner.forgotten.of_span(facts, planner.loose.latest)).intersection(uris)
            if not held:
                return entry, facts
            now, rows = with_version(entry, rows_as_written)
        except FileNotFoundError:
            return None
        if now == entry:
            rows = rows.filter(pa.array([uri not in held for uri in uris], pa.bool_())).combine_chunks()
            facts = counted(replace(facts, forgotten=tuple(sorted(held.union(facts.forgotten)))), rows)
            rewrite_span(planner.place, entry, rows, facts, bound)
        found = storage.stat(entry.uri)
        if found is None:
            return None
        entry = found
    raise StorageError(f"{entry.uri} is written again and again by others: the same command continues")
