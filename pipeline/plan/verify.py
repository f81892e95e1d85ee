"""The audit by reading every row of an output."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.output.bound import bound_of
from pipeline.output.columns import OK
from pipeline.output.place import Place
from pipeline.output.span_file import read_facts
from pipeline.plan import files
from pipeline.plan.names import last_spans, span_name


@dataclass(frozen=True)
class Verification:
    """What reading every row has shown."""

    files: int
    rows: int
    ok: int
    duplicates: int
    damaged: tuple[str, ...]
    missing: int = 0  # images of the plan without a row

    @property
    def green(self) -> bool:
        """Whether every planned image has a row, every file is whole, its counts true and every URI unique."""
        return not (self.duplicates or self.damaged or self.missing)


def verify(place: Place) -> Verification:
    """Read every row: counts must be what plan and files say, URIs unique over all. 16 bytes of memory per row."""
    spans = list(place.spans())
    planned = _planned(place, [name for name, _ in spans], bound_of(place).span_size.shard)
    digests: list[np.ndarray] = []
    rows = ok = count = 0
    damaged: list[str] = []
    missing = 0
    for _, entry in spans:
        count += 1
        try:
            facts = read_facts(entry)
            with storage.open_stream(entry) as stream:
                table = pq.read_table(stream)
        except Exception as error:  # whatever is wrong with one file, the others are read
            damaged.append(f"{entry.uri}: {error}")
            continue
        good = sum(status == OK for status in table["status"].to_pylist())
        if (facts.images, facts.ok) != (len(table), good):
            damaged.append(f"{entry.uri}: says {facts.images} rows, {facts.ok} ok; has {len(table)}, {good}")
        digests.append(_digests(table["uri"].to_pylist()))
        missing += max(0, planned.pop(facts.name, 0) - len(table))
        rows, ok = rows + len(table), ok + good
    every = np.concatenate(digests) if digests else np.empty(0, "V16")
    twice = len(every) - len(np.unique(every))
    return Verification(count, rows, ok, twice, tuple(damaged), missing=missing + sum(planned.values()))


def _planned(place: Place, finished: list[str], span_size: int) -> dict[str, int]:
    """Images of every span that the plan knows, by its name; shards without an entry are planned up to their last."""
    parts, shards = files.listing(place)
    planned: dict[str, int] = {}
    for part in parts:
        spans, changes = files.read_part(part)
        planned |= {} if changes else {span.name: span.images for span in spans}
    for entry in shards.values():
        for start in range(0, entry.images, span_size):
            planned[span_name(entry.name, start)] = min(span_size, entry.images - start)
    for shard, last in last_spans(finished).items():
        if shard not in shards:
            planned |= {span_name(shard, start): span_size for start in range(0, last, span_size)}
    return planned


def _digests(uris: list[str]) -> np.ndarray:
    raw = b"".join(hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=16).digest() for uri in uris)
    return np.frombuffer(raw, np.dtype([("a", "<u8"), ("b", "<u8")]))
