"""The plan on storage: numbered parts that list loose images, and one entry for every shard that was read to its end.

Each file is created exclusively and never changed.

    plan/part-000012.parquet                      loose images, or later versions of earlier ones: `part_file.py`
    plan/shard-NAME.NUMBER-VERSION-IMAGES.json    the latest number of a shard counts: `entry_file.py`
    plan/forgotten-000003.parquet                 images that are forgotten: `forgotten.py`
"""

from __future__ import annotations

import operator
from typing import NamedTuple

from pipeline import storage
from pipeline.output.place import Place
from pipeline.plan.entry_file import ShardEntry
from pipeline.plan.forgotten import FORGOTTEN
from pipeline.plan.part_file import PART
from pipeline.storage import Entry


class PlanListing(NamedTuple):
    """All parts by number, the latest entry of every shard by its name, and forgetting parts (`forgotten.py`)."""

    parts: list[Entry]
    shards: dict[str, ShardEntry]
    forgotten: list[Entry]


def listing(place: Place) -> PlanListing:
    """What the plan is made of."""
    parts: list[Entry] = []
    shards: dict[str, ShardEntry] = {}
    forgotten: list[Entry] = []
    for entry in storage.listing(place.plan):
        file = entry.uri.rpartition("/")[2]  # the folder above may have any name, `shard-1` too
        if PART.fullmatch(file):
            parts.append(entry)
        elif FORGOTTEN.fullmatch(file):
            forgotten.append(entry)
        elif found := ShardEntry.found(entry):
            before = shards.get(found.name)
            if before is None or (before.number, before.images) < (found.number, found.images):
                shards[found.name] = found
    numbered = operator.attrgetter("uri")
    return PlanListing(sorted(parts, key=numbered), shards, sorted(forgotten, key=numbered))
