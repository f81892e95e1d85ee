"""An output as it stands, without its sources: what is planned and finished, and where an image is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.output.bound import Bound, bound_of
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts, as_it_is, facts_and_uris, read_facts
from pipeline.plan import part_file
from pipeline.plan.forgotten import Forgetting
from pipeline.plan.names import shard_name, shard_of
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.source.item import Wanted


@dataclass(frozen=True)
class Inventory:
    """The plan and the finished spans of an output; `shards` has the names of the latter by shard."""

    place: Place
    bound: Bound
    planner: Planner
    ledger: Ledger
    shards: dict[str, list[str]]

    @staticmethod
    def of(place: Place) -> Inventory:
        """As the output is now; raises ConfigError where it is none of ours."""
        bound, ledger = bound_of(place), Ledger.load(place)
        planner = Planner(place, ledger, PlanSettings(bound.span_size, Wanted(frozenset())))
        planner.learn()
        shards: dict[str, list[str]] = defaultdict(list)
        for name in ledger.files:
            shards[shard_of(name)].append(name)
        shards.pop("", None)
        return Inventory(place, bound, planner, ledger, shards)

    def loose(self, uris: Collection[str]) -> Iterator[Forgetting]:
        """Those of these images that are loose ones of the plan."""
        wanted = pa.array(sorted(uris), pa.string())
        for part in self.planner.loose.parts:
            if not part_file.read_part(part)[1]:
                table = part_file.read_images(part, ["uri", "version", "span"])
                for found in table.filter(pc.is_in(table["uri"], value_set=wanted)).to_pylist():
                    yield self.as_planned(found["uri"], found["version"], found["span"])

    def as_planned(self, uri: str, version: str, span: str) -> Forgetting:
        """A loose image of this first version in the version that it has in the plan by now."""
        return Forgetting(uri, self.planner.loose.latest.get(uri, version), span)

    def in_shards(self, uris: Collection[str]) -> Iterator[Forgetting]:
        """Those of these images that finished spans of shards have rows of."""
        shards = {name for uri in uris for name in map(shard_name, _shards_in(uri)) if name in self.shards}
        for found in self.rows(shards):
            if found.uri in uris:
                yield found

    def rows(self, shards: Collection[str]) -> Iterator[Forgetting]:
        """All rows of these shards, by name."""
        names = [(shard, name) for shard in sorted(shards) for name in self.shards[shard]]
        for (shard, _), (facts, uris) in zip(names, storage.in_parallel(self._read, names), strict=True):
            yield from (Forgetting(uri, facts.version if uri == facts.source else None, shard) for uri in uris)

    def _read(self, named: tuple[str, str]) -> tuple[SpanFacts, list[str]]:
        return as_it_is(self.ledger.entry(named[1]), facts_and_uris)

    def sources(self) -> Iterator[tuple[str, str]]:
        """The name and uri of every shard that has finished spans."""
        names = sorted(self.shards)
        facts = storage.in_parallel(lambda name: read_facts(self.ledger.entry(self.shards[name][0])), names)
        return zip(names, (found.source for found in facts), strict=True)

    def is_forgotten(self, image: Forgetting) -> bool:
        """Whether an image, as found here, is forgotten already."""
        return self.planner.forgotten.has(image.uri, {image.uri: image.version} if image.version else {})


def _shards_in(uri: str) -> Iterator[str]:
    """What may be the shard of an image, or is the shard itself: names of files hold `#` themselves."""
    yield from (uri[:place] for place, letter in enumerate(uri) if letter == "#")
    yield uri
