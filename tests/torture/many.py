"""What very many images or shards cost the driver: python -m tests.torture.many loose|shards COUNT OUTPUT

Their names are made up as they are listed, by a store of its own; so is an output in which all shards are finished.
That of loose images is a folder: the first call plans them, the next ones find their plan. A line of JSON says how many
rows of work there were, and the seconds and the largest memory (MB) that it took; `before` is what imports alone take.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger
from pipeline.output.place import SPAN, Place
from pipeline.plan.names import shard_name, short_version, span_name
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.source.item import Wanted
from pipeline.source.naming import Sources
from pipeline.storage import Entry, registry
from pipeline.storage.remote import Remote

SOURCE, OUTPUT, IMAGES = "made://photos/2025/", "made://out", 1000  # IMAGES: in a shard, which is one span


class Made(Remote):
    """Lists what nobody has written."""

    def __init__(self, count: int, ending: str) -> None:
        self.count, self.ending = count, ending

    def listing(self, prefix: str) -> Iterator[Entry]:
        kinds = {f"{OUTPUT}/data": span_file, f"{OUTPUT}/plan": plan_entry}
        for number in range(self.count if prefix.rstrip("/") in kinds or prefix == SOURCE else 0):
            uri = f"{SOURCE}{number // 10_000:05d}/{number:09d}.{self.ending}"
            yield Entry(kinds.get(prefix.rstrip("/"), str)(uri), 100_000, f"{number:032x}")

    def stat(self, uri: str) -> Entry | None:  # noqa: ARG002 - nothing is there but what is listed
        return None


def span_file(uri: str) -> str:
    return f"{OUTPUT}/data/{span_name(shard_name(uri), 0)}{SPAN}"


def plan_entry(uri: str) -> str:
    version = short_version(f"{int(uri.rpartition('/')[2].partition('.')[0]):032x}")
    return f"{OUTPUT}/plan/shard-{shard_name(uri)}.0-{version}-{IMAGES}.json"


def mb() -> int:
    """The largest memory so far. `ru_maxrss` would count that of the process which started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


def main() -> None:
    """One pass of the planner over all of them."""
    kind, count, output = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    registry.register("made", Made(count, "tar" if kind == "shards" else "jpg"))
    before, began = mb(), time.perf_counter()
    place = Place(OUTPUT if kind == "shards" else output)
    ledger = Ledger.load(place)
    planner = Planner(place, ledger, PlanSettings(SpanSize(IMAGES, 256, 1024), Wanted(frozenset())))
    rows = sum(1 for _ in planner.rows(Sources((SOURCE,), "auto", frozenset({".jpg"})).listing()))
    told = {"rows": rows, "seconds": round(time.perf_counter() - began, 1), "mb": mb(), "before": before}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
