"""The proof: planned = ok + failed + forgotten, none missing, none twice. From counts alone; an audit only looks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.output.ledger import Ledger, Seen
from pipeline.plan import files
from pipeline.plan.entry_file import ShardEntry, origin_of
from pipeline.plan.expected import Expected, expected_spans, surplus_spans
from pipeline.plan.names import shard_of, short_version
from pipeline.plan.planner import Planner
from pipeline.plan.rows import ShardState

Shards = Mapping[str, ShardEntry]  # by name
Stops = Mapping[str, ShardState]  # shards as --limit lets them in, by name


@dataclass(frozen=True)
class Audit:
    """Counts of images over the whole output; `unfinished` names shards that were not read to their end.

    More images in files than planned would be `duplicates`: spans share no image, and the plan names each span once, so
    counts show none. `verify.py` looks at every row.
    """

    planned: int
    ok: int
    failed: int
    missing: int
    duplicates: int
    unfinished: tuple[str, ...] = ()
    empty_shards: int = 0
    forgotten: int = 0
    gone: tuple[str, ...] = ()  # shards that are gone and were not finished before: only their rows count
    lacking_shard: str = field(default="", repr=False)  # the URI of one that lacks images, if one does
    # spans that are not there, of an old version, or may hold a forgotten image
    incomplete: tuple[str, ...] = field(default=(), repr=False)

    @property
    def green(self) -> bool:
        """Whether every image of the plan is accounted for exactly once."""
        return not (self.missing or self.duplicates or self.unfinished)

    @property
    def failed_share(self) -> float:
        """The share of failed images among those that are not forgotten, 0 to 1."""
        return self.failed / max(self.remembered, 1)

    @property
    def remembered(self) -> int:
        """Planned images that are not forgotten."""
        return self.planned - self.forgotten

    def to_json(self) -> dict[str, object]:
        """The audit in a run's report."""
        names = ("planned", "ok", "failed", "forgotten", "missing", "duplicates")
        counts = {name: getattr(self, name) for name in names}
        return {**counts, "line": self.line, "unfinished": list(self.unfinished), "gone": list(self.gone)}

    @property
    def line(self) -> str:
        """The audit in one line."""
        tail = f", unfinished shards {len(self.unfinished)}" if self.unfinished else ""
        forgotten = f" + forgotten {self.forgotten:,}" if self.forgotten else ""
        return (
            f"planned {self.planned:,} = ok {self.ok:,} + failed {self.failed:,}{forgotten}, "
            f"missing {self.missing:,}, duplicates {self.duplicates:,}{tail}"
        )


@dataclass(frozen=True)
class Held:
    """Spans that the plan wants, those of them that are there, and what is there of shards without an entry."""

    expected: dict[str, Expected]
    finished: dict[str, Seen]
    unplanned: list[Seen]

    @staticmethod
    def of(planner: Planner, ledger: Ledger, shards: Shards, stopped: Stops) -> Held:
        """Of these shards, and of those that --limit stops, which count as far as it lets them in."""
        expected = expected_spans(planner.loose.spans, {**shards, **stopped}.values(), planner.settings.span_size.shard)
        return Held(expected, *_found(ledger, expected, surplus_spans(ledger.files, expected, shards)))

    @property
    def lacking(self) -> tuple[str, ...]:
        """What the plan wants and is not there."""
        return tuple(name for name in self.expected if name not in self.finished)


def audit(planner: Planner, ledger: Ledger) -> Audit:
    """Hold the finished files against the plan; opens only files that no report has seen."""
    ledger.refresh()
    _, shards, forgotten = files.listing(planner.place)
    planner.forgotten.learn(forgotten)
    stopped = {name: stop for name, stop in planner.shards.stopped.items() if not _is_read(shards.get(name), stop)}
    held = Held.of(planner, ledger, shards, stopped)
    unlisted = [name for name in held.lacking if shard_of(name) not in planner.shards.met]
    if gone := gone_shards(unlisted, shards, ledger, {}):
        shards = {name: entry for name, entry in shards.items() if name not in gone}
        held = Held.of(planner, ledger, shards, stopped)
    counted = [*held.finished.values(), *held.unplanned]
    unfinished = tuple(sorted(planner.shards.due.keys() - shards.keys() - stopped.keys()))
    images, planned = _images(counted), _images([*held.expected.values(), *held.unplanned])
    return Audit(
        planned=planned,
        ok=sum(seen.ok for seen in counted),
        failed=sum(seen.failed for seen in counted),
        missing=max(0, planned - images),
        duplicates=max(0, images - planned),
        unfinished=unfinished,
        empty_shards=sum(entry.images == 0 for entry in shards.values()),
        forgotten=sum(seen.forgotten for seen in counted),
        gone=tuple(sorted(gone.values())),
        lacking_shard=_lacking_shard(planner, held, shards, unfinished),
        incomplete=(*held.lacking, *planner.forgotten.uncleared(ledger)),
    )


def _lacking_shard(planner: Planner, held: Held, shards: Shards, unfinished: tuple[str, ...]) -> str:
    """The URI of a shard that has an entry and lacks a span, or that was not read to its end; empty: there is none."""
    entry = next(filter(None, (shards.get(shard_of(name)) for name in held.lacking)), None)
    if entry is not None:
        return origin_of(entry).uri
    return planner.shards.due[unfinished[0]] if unfinished else ""


def _images(spans: Iterable[Expected | Seen]) -> int:
    return sum(span.images for span in spans)


def gone_shards(spans: Iterable[str], shards: Shards, ledger: Ledger, uris: Mapping[str, str]) -> dict[str, str]:
    """Shards that lack these `spans` because they are not there any more, uris by name; `uris` of those without entry.

    Not a shard of which a span was seen finished before: then a file is lost, whatever became of the shard. Nor one
    that may not be asked for, or of which nobody knows the uri, as all its files are damaged.
    """
    lacking, lost = set[str](), set[str]()
    for name in spans:
        shard = shard_of(name)
        lacking.add(shard)
        seen = {short_version(version) for version in ledger.lost.get(name, ())}
        if shard in shards and not shards[shard].is_reopened:
            seen &= {shards[shard].version}
        if seen:
            lost.add(shard)
    gone: dict[str, str] = {}
    for shard in sorted(lacking - lost - {""}):
        uri = origin_of(shards[shard]).uri if shard in shards else uris.get(shard)
        with suppress(PermissionError):
            if uri is not None and storage.stat(uri) is None:
                gone[shard] = uri
    return gone


def _is_read(entry: ShardEntry | None, stop: ShardState) -> bool:
    """Whether a shard that --limit might have stopped was read to its end after all."""
    return entry is not None and entry.version == stop.version


def _found(ledger: Ledger, expected: dict[str, Expected], surplus: set[str]) -> tuple[dict[str, Seen], list[Seen]]:
    """Finished spans of the versions wanted, and finished spans of shards that have no entry yet."""
    seen = ledger.seen_of([name for name in ledger.files if name in expected])
    finished = {name: found for name, found in seen.items() if expected[name].fits(found)}
    others = [name for name in ledger.files if name not in expected and name not in surplus]
    return finished, list(ledger.seen_of(others).values())
