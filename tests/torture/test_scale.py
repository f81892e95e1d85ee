"""Large outputs and long lists: what resume and planning cost the driver, and that memory does not grow with images."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.flow import make_tar
from tests.helpers import ROOT, clean_env
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import start_command

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
# Plans as a driver does, and says how long the first row and all rows took, and its largest memory.
PLAN = """
import json, sys, time
sys.path[:0] = [{root!r}, {root!r} + "/jobs"]
from pipeline.decode.decode import extensions
from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan.planner import PlanSettings, Planner
from pipeline.source.item import Wanted
from pipeline.source.naming import Sources
began = time.perf_counter()
place = Place({output!r})
listing = Sources(({source!r},), "auto", extensions()).listing()
planner = Planner(place, Ledger.load(place), PlanSettings(SpanSize.fixed({span_size}), Wanted(frozenset())))
first = rows = 0
for row in planner.rows(listing):
    first = first or time.perf_counter() - began
    rows += 1
print(json.dumps(dict(rows=rows, first=first, seconds=time.perf_counter() - began,
                      mb=int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10)))
"""


def plan(source: Path, output: Path, span_size: int) -> dict[str, Any]:
    code = PLAN.format(root=str(ROOT), source=str(source), output=str(output), span_size=span_size)
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_env(), capture_output=True, text=True, timeout=600, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout)
    return told


def test_a_million_listed_uris(tmp_path: Path, tally: Tally) -> None:
    (tmp_path / "list.txt").write_text("".join(f"s3://bucket/photos/2024/{n:09d}.jpg\n" for n in range(1_000_000)))
    told = plan(tmp_path / "list.txt", tmp_path / "out", 1024)
    tally(f"plan of 1,000,000 URIs: {told['seconds']:.0f} s, {told['mb']} MB", injected=0, lost=0, duplicated=0)
    assert told["rows"] == 977
    assert told["mb"] < 1024
    again = plan(tmp_path / "list.txt", tmp_path / "out", 1024)
    assert again["rows"] == 977


def test_resume_over_a_hundred_thousand_finished_spans(tmp_path: Path, tally: Tally) -> None:
    from pipeline.output.ledger import SEEN_SCHEMA, Ledger
    from pipeline.output.place import SEEN, Place

    output = tmp_path / "out"
    (tmp_path / "list.txt").write_text("".join(f"s3://bucket/photos/{n:09d}.jpg\n" for n in range(400_000)))
    assert plan(tmp_path / "list.txt", output, 4)["rows"] == 100_000
    (output / "data").mkdir()
    names = [n for part in (output / "plan").iterdir() for n in pq.read_table(part)["span"].unique().to_pylist()]
    for name in names:
        (output / "data" / f"{name}.parquet").write_bytes(b"PAR1")
    (output / "data" / f"{names[-1]}.parquet").unlink()
    ledger = Ledger.load(Place(str(output)))
    rows = [(name, file, "listed", 4, 4) for name, file in ledger.files.items()]
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), SEEN_SCHEMA, strict=True)]
    (output / "runs").mkdir()
    pq.write_table(pa.Table.from_arrays(columns, schema=SEEN_SCHEMA), output / f"runs/before{SEEN}")
    told = plan(tmp_path / "list.txt", output, 4)
    said = f"resume over 100,000 spans: {told['first']:.0f} s, {told['mb']} MB"
    tally(said, injected=0, lost=0, duplicated=0)
    assert told["rows"] == 1
    assert told["mb"] < 500


@pytest.mark.parametrize(
    ("kind", "counts", "most"), [("loose", (1_000_000, 2_500_000), 150), ("shards", (100_000, 400_000), 1200)]
)
def test_what_one_more_takes_of_the_driver(
    kind: str, counts: tuple[int, int], most: int, tmp_path: Path, tally: Tally
) -> None:
    """Bytes of memory for each loose image, planned and found planned, and for each finished shard."""
    peaks = []
    for count in counts:
        command = [sys.executable, "-m", "tests.torture.many", kind, str(count), str(tmp_path / f"out{count}")]
        told = [
            json.loads(subprocess.run(command, cwd=ROOT, env=clean_env(), capture_output=True, check=True).stdout)
            for _ in range(2)
        ]
        assert told[0]["rows"] == told[1]["rows"]
        peaks.append(max(one["mb"] for one in told))
    each = (peaks[1] - peaks[0]) * (1 << 20) / (counts[1] - counts[0])
    tally(f"driver's memory for each of {counts[1]:,} {kind}: {each:.0f} B", injected=0, lost=0, duplicated=0)
    assert each < most


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, tally: Tally) -> None:
    peaks = []
    for times in (1, 10):
        source = tmp_path / f"in{times}"
        for number in range(2 * times):
            make_tar(source / f"{number:02d}.tar", named(150))
        command = [*start_command(source, tmp_path / f"out{times}")]
        code = (
            "import os, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True);"
            "print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, env=clean_env(),
            timeout=300, check=True,
        )  # fmt: skip
        peaks.append(int(re.search(r"peak (\d+)", done.stdout)[1]) >> 10)  # type: ignore[index]
    tally(f"memory at 1x and 10x the images: {peaks[0]} and {peaks[1]} MB", injected=0, lost=0, duplicated=0)
    assert peaks[1] <= 1.1 * peaks[0]
