"""What a shard that shrank leaves behind its new end is deleted, by the run, before the audit."""

from __future__ import annotations

from pipeline import storage
from pipeline.output.ledger import Ledger
from pipeline.plan import files
from pipeline.plan.audit import expected_spans, surplus_spans
from pipeline.plan.names import span_name
from pipeline.plan.planner import Planner


def prune(planner: Planner, ledger: Ledger) -> None:
    """Delete the surplus spans of every shard whose other spans are all there in the new version."""
    ledger.refresh()
    shards = files.listing(planner.place).shards
    size = planner.order.span_size.shard
    expected = expected_spans({}, shards.values(), size)
    surplus = surplus_spans(ledger, expected, shards)
    for shard in sorted({name.rpartition("-")[0] for name in surplus}):
        kept = [span_name(shard, start) for start in range(0, shards[shard].images, size)]
        if not all(name in ledger.files for name in kept):
            continue
        if all(expected[name].fits(seen) for name, seen in ledger.facts_of(kept)):
            for name in [name for name in surplus if name.rpartition("-")[0] == shard]:
                storage.delete(planner.place.span_file(name))
