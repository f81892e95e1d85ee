"""What a shard that shrank leaves behind its new end is deleted, by the run, before the audit."""

from __future__ import annotations

from pipeline import storage
from pipeline.output.ledger import Ledger
from pipeline.plan import files
from pipeline.plan.expected import expected_spans, spans_of, surplus_spans
from pipeline.plan.names import shard_of
from pipeline.plan.planner import Planner


def prune(planner: Planner, ledger: Ledger) -> None:
    """Delete the surplus spans of every shard whose other spans are all there in the new version."""
    ledger.refresh()
    shards = files.listing(planner.place).shards
    size = planner.settings.span_size.shard
    expected = expected_spans({}, shards.values(), size)
    surplus = surplus_spans(ledger.files, expected, shards)
    for shard in sorted(set(map(shard_of, surplus))):
        kept = spans_of(shards[shard], size)
        if not all(name in ledger.files for name in kept):
            continue
        if all(kept[name].fits(seen) for name, seen in ledger.seen_of(kept).items()):
            for name in surplus:
                if shard_of(name) == shard:
                    storage.delete(planner.place.span_file(name))
