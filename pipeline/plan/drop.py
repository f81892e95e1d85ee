"""Rows of forgotten images are removed: the files that hold them are written again without them, before the audit."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pyarrow as pa

from pipeline import storage
from pipeline.errors import StorageError
from pipeline.output.bound import Bound
from pipeline.output.ledger import Ledger
from pipeline.output.span_file import SpanFacts, counted, read_as_written, read_facts, read_table, rewrite_span
from pipeline.plan import files
from pipeline.plan.planner import Planner
from pipeline.storage import Entry

AT_ONCE = 4  # files held in memory
TRIES = 10


def drop(planner: Planner, ledger: Ledger, bound: Bound) -> list[str]:
    """Rewrite every file that holds a forgotten image; returns the spans looked at, which `ledger` knows then."""
    planner.forgotten.learn(files.listing(planner.place).forgotten)
    ledger.refresh()
    names = list(planner.forgotten.uncleared(ledger))
    parts = planner.forgotten.count
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for cleared in pool.map(lambda name: _clear(planner, ledger.entry(name), bound), names):
            if cleared is not None:
                ledger.clear(*cleared, parts)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return names


def _clear(planner: Planner, entry: Entry, bound: Bound) -> tuple[Entry, SpanFacts] | None:
    """The file without forgotten images, and what it holds; None where it was deleted meanwhile."""
    found: Entry | None = entry
    for _ in range(TRIES):
        if found is None:
            return None
        facts = read_facts(found)
        forgotten = frozenset(planner.forgotten.of_span(facts, planner.loose.latest))
        uris = read_table(found, ["uri"])["uri"].to_pylist()
        held = forgotten.intersection(uris)
        if not held:
            return found, facts
        rows = read_as_written(found).filter(pa.array([uri not in held for uri in uris], pa.bool_())).combine_chunks()
        facts = counted(replace(facts, forgotten=tuple(sorted(held.union(facts.forgotten)))), rows)
        rewrite_span(planner.place, found, rows, facts, bound)
        found = storage.stat(found.uri)
    raise StorageError(f"{entry.uri} is written again and again by others: the same command continues")
