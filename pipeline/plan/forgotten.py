"""Images that are forgotten: numbered parts of the plan that name them, created exclusively and never changed.

    plan/forgotten-000003.parquet    uri; version; within, the span of loose images, or shard, that the image is in

A loose image is forgotten in the version that it has in the plan: a new one brings it back. The version of a shard's
member is null, as it is forgotten whatever the shard's version. The row of a shard that could not be read on has the
shard's uri; it is forgotten in the shard's version. Memory: the uris of all forgotten images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts
from pipeline.plan.names import shard_of
from pipeline.plan.part_file import next_number, opened
from pipeline.source.kinds import UNKNOWN_VERSION
from pipeline.storage import Entry

FORGOTTEN = re.compile(r"forgotten-(\d{6})\.parquet")
MODE = "forget"  # of a report
SCHEMA = pa.schema([("uri", pa.string()), ("version", pa.string()), ("within", pa.string())])


def is_of_forgetting(report: Mapping[str, object]) -> bool:
    """Whether a run's report, as its JSON stands in the output, is of forgetting, not of a run on the source."""
    return report.get("mode") == MODE


class Forgetting(NamedTuple):
    """A row of a part."""

    uri: str
    version: str | None
    within: str


class Forgotten:
    """What all parts together say."""

    def __init__(self) -> None:
        self.count = self.next_number = 0  # of parts
        self.versions: dict[str, set[str | None]] = {}  # by uri
        self.within: dict[str, list[str]] = {}  # uris, by the span or shard that they are in
        self.latest: dict[str, int] = {}  # the number behind that of the last part about a span or shard

    def learn(self, parts: list[Entry]) -> None:
        """Take in the parts that are new; `parts` are all there are."""
        self.next_number = next_number(parts)
        for part in parts[self.count :]:
            self.count += 1
            with opened(part) as stream:
                table = pq.read_table(stream).select(SCHEMA.names)
            for uri, version, within in map(Forgetting._make, zip(*table.to_pydict().values(), strict=True)):
                if uri not in self.versions:
                    self.within.setdefault(within, []).append(uri)
                self.versions.setdefault(uri, set()).add(version)
                self.latest[within] = next_number([part])

    def has(self, uri: str, versions: Mapping[str, str]) -> bool:
        """Whether an image is forgotten. `versions` has its version unless that is the first one in the plan."""
        found = self.versions.get(uri, set())
        if not found or uri not in versions:
            return bool(found)
        # A list knows no version: whether one that is met later is new nobody can tell.
        return versions[uri] in found or None in found or UNKNOWN_VERSION in found

    def of(self, within: str, versions: Mapping[str, str]) -> tuple[str, ...]:
        """The forgotten images of a span of loose images, or of a shard; `versions` as for `has`."""
        return tuple(sorted(uri for uri in self.within.get(within, ()) if self.has(uri, versions)))

    def of_span(self, facts: SpanFacts, versions: Mapping[str, str]) -> tuple[str, ...]:
        """`of` for a finished span, or for the shard that it is of; `versions` are those of loose images."""
        shard = shard_of(facts.name)
        return self.of(shard or facts.name, {facts.source: facts.version} if shard else versions)

    def uncleared(self, ledger: Ledger) -> Iterator[str]:
        """Finished spans that may hold a forgotten image still, for all that is known."""
        for name in ledger.files if self.latest else ():
            if self.latest.get(shard_of(name) or name, 0) > ledger.cleared(name):
                yield name


def write_part(place: Place, number: int, images: Iterable[Forgetting]) -> bool:
    """Create part `number`; False when another process has taken that number."""
    columns = list(zip(*sorted(images, key=lambda image: image.uri), strict=True))
    arrays = [pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), sink, compression="zstd")
    with place.writing():
        return storage.create(place.plan_file(f"forgotten-{number:06d}.parquet"), sink.getvalue().to_pybytes())
