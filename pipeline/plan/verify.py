"""The audit by reading every row of an output."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from pipeline import storage
from pipeline.errors import CredentialsLost, PatienceSpent, TooManyFailures
from pipeline.output.bound import bound_of
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts, as_it_is, facts_and_rows
from pipeline.plan import files, part_file
from pipeline.plan.audit import gone_shards
from pipeline.plan.expected import spans_of
from pipeline.plan.forgotten import Forgotten, is_of_forgetting
from pipeline.plan.names import images_name, last_spans, shard_of, span_name
from pipeline.status import OK
from pipeline.storage import Entry

AT_ONCE = 8  # files held in memory
AGAIN = "remove it and run again"


@dataclass(frozen=True)
class Verification:
    """What reading every row has shown."""

    files: int
    rows: int
    ok: int
    duplicates: int
    damaged: tuple[str, ...]
    missing: int = 0  # images of the plan that are not forgotten and have no row, and may have one
    forgotten: int = 0  # images without a row, as the plan wants it
    remembered: int = 0  # rows of images that the plan wants forgotten
    has_ended: bool = True  # the last run, so that the plan is known to be whole

    @property
    def green(self) -> bool:
        """Whether every planned image has a row or is forgotten, files are whole, their counts true, URIs unique."""
        return not (self.duplicates or self.damaged or self.missing or self.remembered)


def verify(place: Place) -> Verification:
    """Read every row: counts must be what plan and files say, URIs unique over all. 32 bytes of memory per row."""
    spans = list(place.spans())
    planned = _Planned(place, [name for name, _ in spans], bound_of(place).span_size.shard)
    digests: list[np.ndarray] = []
    rows = ok = 0
    damaged: list[str] = []
    forgotten = remembered = 0
    found = storage.in_parallel(_read, (entry for _, entry in spans), AT_ONCE)
    for (name, entry), read in zip(spans, found, strict=True):
        if isinstance(read, Exception):
            damaged.append(f"{entry.uri}: {read}")
            continue
        facts, uris, good = read
        if why := planned.contradicts(name, facts, uris):
            damaged.append(f"{entry.uri}: {why}")
        if (facts.rows, facts.ok) != (len(uris), good):
            damaged.append(f"{entry.uri}: says {facts.rows} rows, {facts.ok} ok; has {len(uris)}, {good}: {AGAIN}")
        wanted = planned.forgotten_of(facts)
        digests.append(_digests(uris))
        planned.found(facts, len(uris) + len(wanted.intersection(facts.forgotten)))
        forgotten, remembered = forgotten + len(facts.forgotten), remembered + len(wanted.intersection(uris))
        rows, ok = rows + len(uris), ok + good
    every = np.concatenate([*digests, _digests([])])
    digests.clear()
    every.sort()
    twice = int(np.count_nonzero(every[1:] == every[:-1]))
    missing = planned.missing(Ledger.load(place))
    return Verification(
        len(spans), rows, ok, twice, tuple(damaged), missing, forgotten, remembered, has_ended=_has_ended(place)
    )


def _read(entry: Entry) -> tuple[SpanFacts, list[str], int] | Exception:
    """What a file says of itself, the uri of each of its rows, and how many are ok; or what is wrong with it."""
    try:
        facts, table = as_it_is(entry, facts_and_rows)
        return facts, table["uri"].to_pylist(), sum(status == OK for status in table["status"].to_pylist())
    except (CredentialsLost, PatienceSpent):  # no file is at fault
        raise
    except Exception as error:  # whatever is wrong with one file, the others are read
        return error


def _has_ended(place: Place) -> bool:
    """Whether the last run came to its end, if with too many failures; one that was killed leaves its lease."""
    if storage.stat(place.success_file) is not None:
        return True
    if storage.stat(place.lease_file) is not None:
        return False
    for report in reversed(place.reports()):
        with suppress(ValueError, AttributeError):  # a report that is none tells nothing
            told = json.loads(storage.read(report))
            if not is_of_forgetting(told):  # which ends no run
                return bool(told.get("exit") == TooManyFailures.exit_code)
    return False


class _Planned:
    """Images of every span that the plan knows, by its name; shards without an entry are planned up to their last."""

    def __init__(self, place: Place, finished: list[str], span_size: int) -> None:
        parts, shards, forgotten = files.listing(place)
        self.entries, self.sources = shards, dict[str, str]()  # of shards: their uris, by name
        self.images: dict[str, int] = {}
        self.forgotten, self.versions = Forgotten(), dict[str, str]()
        self.forgotten.learn(forgotten)
        for part in parts:
            spans, changes = part_file.read_part(part)
            self.images |= {} if changes else {span.name: span.images for span in spans}
            if changes and forgotten:
                table = part_file.read_images(part, ["uri", "version"])
                self.versions |= dict(zip(*table.to_pydict().values(), strict=True))
        for entry in shards.values():
            self.images |= {name: span.images for name, span in spans_of(entry, span_size).items()}
        for shard, last in last_spans(finished).items():
            if shard not in shards:
                self.images |= {span_name(shard, start): span_size for start in range(0, last, span_size)}

    def contradicts(self, name: str, facts: SpanFacts, uris: list[str]) -> str | None:
        """Why a file is not what its name says, or holds images of others; None where all is well."""
        if facts.name != name:
            return f"is a copy of {facts.name}: {AGAIN}"
        if not shard_of(name):
            if name not in self.images:
                return f"is in no part of the plan: restore that part, or {AGAIN}"
            is_own = bool(facts.forgotten) or images_name(uris) == name
        else:
            is_own = all(uri == facts.source or uri.startswith(f"{facts.source}#") for uri in uris)
        return None if is_own else f"holds other images than it was planned with: {AGAIN}"

    def found(self, facts: SpanFacts, images: int) -> None:
        """So many images of a span have a row, or have none as the plan wants it."""
        self.sources[shard_of(facts.name)] = facts.source
        self.images[facts.name] = max(0, self.images.get(facts.name, 0) - images)

    def missing(self, ledger: Ledger) -> int:
        """Images that were not found, without those of shards that are gone and were not finished before."""
        lacking = [name for name, images in self.images.items() if images]
        gone = gone_shards(lacking, self.entries, ledger, self.sources)
        return sum(self.images[name] for name in lacking if shard_of(name) not in gone)

    def forgotten_of(self, facts: SpanFacts) -> frozenset[str]:
        """Images of a finished span, or of the whole shard that it is of, that the plan wants forgotten."""
        return frozenset(self.forgotten.of_span(facts, self.versions))


def _digests(uris: list[str]) -> np.ndarray:
    raw = b"".join(hashlib.blake2b(uri.encode("utf-8", "surrogateescape"), digest_size=16).digest() for uri in uris)
    return np.frombuffer(raw, np.dtype([("a", "<u8"), ("b", "<u8")]))
