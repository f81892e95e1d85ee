"""The proof: planned = ok + failed, nothing missing, nothing twice. From counts; `verify` reads every row."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq

from pipeline import output, plan_parts, storage
from pipeline.columns import OK
from pipeline.errors import ConfigError
from pipeline.ledger import Ledger
from pipeline.plan import Planner
from pipeline.settings import read_bound
from pipeline.spans import span_name
from pipeline.storage import Entry


@dataclass(frozen=True)
class Audit:
    """Counts of images over the whole output; `unfinished` names shards that were not read to their end."""

    planned: int
    ok: int
    failed: int
    missing: int
    duplicates: int
    unfinished: tuple[str, ...] = ()
    empty_shards: int = 0
    incomplete: tuple[str, ...] = field(default=(), repr=False)  # spans that are not there, or of an old version

    @property
    def green(self) -> bool:
        """Whether every image of the plan is accounted for exactly once."""
        return not (self.missing or self.duplicates or self.unfinished)

    @property
    def line(self) -> str:
        """The audit in one line."""
        tail = f", unfinished shards {len(self.unfinished)}" if self.unfinished else ""
        return (
            f"planned {self.planned:,} = ok {self.ok:,} + failed {self.failed:,}, "
            f"missing {self.missing:,}, duplicates {self.duplicates:,}{tail}"
        )


@dataclass(frozen=True)
class Expected:
    """A span that the plan wants: how many images, of which version of its source (short for shards)."""

    images: int
    version: str
    short: bool

    def fits(self, version: str) -> bool:
        """Whether a file of this source version is the one wanted."""
        return (plan_parts.short_version(version) if self.short else version) == self.version


def audit(planner: Planner, ledger: Ledger) -> Audit:
    """Hold the finished files against the plan; opens only files that no report has seen."""
    ledger.refresh()
    _, shards = plan_parts.listing(ledger.output)
    size = planner.spec.span_size
    expected = {n: Expected(p.span.stop - p.span.start, p.version, short=False) for n, p in planner.loose.items()}
    for entry in shards.values():
        for start in range(0, entry.images, size):
            images = min(size, entry.images - start)
            expected[span_name(entry.name, start)] = Expected(images, entry.version, short=True)
    seen = dict(ledger.look([name for name in ledger.files if name in expected]))
    good = {name: found for name, found in seen.items() if expected[name].fits(found.version)}
    extra = _surplus(ledger, expected, shards, size)
    partial = dict(ledger.look([name for name in ledger.files if name not in expected and name not in extra]))
    rows = [*good.values(), *partial.values()]
    ok, images = sum(found.ok for found in rows), sum(found.images for found in rows)
    planned = sum(e.images for e in expected.values()) + sum(found.images for found in partial.values())
    return Audit(
        planned=planned,
        ok=ok,
        failed=images - ok,
        missing=max(0, planned - images),
        duplicates=max(0, images - planned),
        unfinished=tuple(sorted(planner.wanted - shards.keys())),
        empty_shards=sum(entry.images == 0 for entry in shards.values()),
        incomplete=tuple(name for name in expected if name not in good),
    )


def _surplus(
    ledger: Ledger, expected: dict[str, Expected], shards: dict[str, plan_parts.ShardEntry], size: int
) -> set[str]:
    """Delete spans behind the new end of a shard that shrank, once all its other spans are of the new version."""
    extra: set[str] = set()
    for name in ledger.files:
        shard, _, start = name.rpartition("-")
        if name not in expected and shard in shards and start.isdigit():
            extra.add(name)
    for name in extra:
        shard = name.rpartition("-")[0]
        entry = shards[shard]
        kept = [span_name(shard, start) for start in range(0, entry.images, size)]
        if all(k in ledger.files for k in kept) and all(expected[k].fits(f.version) for k, f in ledger.look(kept)):
            storage.delete(output.path_of(ledger.output, name))
    ledger.refresh()
    return extra


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


def verify(output_uri: str) -> Verification:
    """Read every row: counts must be what plan and files say, URIs unique over all. 16 bytes of memory per row."""
    bound = read_bound(output_uri)
    if bound is None:
        raise ConfigError(f"{output_uri} is no output of ours: it has no _run.json")
    digests: list[np.ndarray] = []
    rows = ok = files = 0
    damaged: list[str] = []
    planned = _planned(output_uri, bound["span_size"])
    for entry in data_files(output_uri):
        files += 1
        try:
            facts = output.read_facts(entry)
            with storage.open_stream(entry) as stream:
                table = pq.read_table(stream)
        except Exception as error:  # whatever is wrong with one file, the others are read
            damaged.append(f"{entry.uri}: {error}")
            continue
        good = sum(status == OK for status in table["status"].to_pylist())
        if (facts.images, facts.ok) != (len(table), good):
            damaged.append(f"{entry.uri}: says {facts.images} rows, {facts.ok} ok; has {len(table)}, {good}")
        digests.append(_digests(table["uri"].to_pylist()))
        planned.pop(facts.name, None)
        rows, ok = rows + len(table), ok + good
    every = np.concatenate(digests) if digests else np.empty(0, "V16")
    return Verification(
        files, rows, ok, len(every) - len(np.unique(every)), tuple(damaged), missing=sum(planned.values())
    )


def _planned(output_uri: str, span_size: int) -> dict[str, int]:
    """Images of every span that the plan knows, by its name."""
    parts, shards = plan_parts.listing(output_uri)
    planned: dict[str, int] = {}
    for part in parts:
        spans, changes = plan_parts.read_part(part)
        planned |= {} if changes else {span.name: span.stop - span.start for span in spans}
    for entry in shards.values():
        for start in range(0, entry.images, span_size):
            planned[span_name(entry.name, start)] = min(span_size, entry.images - start)
    return planned


def data_files(output_uri: str) -> Iterator[Entry]:
    """The files of finished spans, in the order of their names."""
    for entry in storage.listing(storage.join(output_uri, "data")):
        name = entry.uri.rsplit("/", 1)[-1]
        if name.endswith(output.SUFFIX) and not name.startswith("."):
            yield entry


def _digests(uris: list[str]) -> np.ndarray:
    raw = b"".join(hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=16).digest() for uri in uris)
    return np.frombuffer(raw, np.dtype([("a", "<u8"), ("b", "<u8")]))
