"""Drivers killed while S3 answers them, just before and just after it has carried out what they asked for.

The same command ends it right, and asks S3 for no byte of a finished image again: all that the next run fetches is
counted at a proxy, key by key.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.storage.ranged import BLOCK
from tests.faults import FaultProxy, Rule
from tests.flow import make_tar, png, run_here
from tests.helpers import ROOT, clean_env, rows, tree_bytes
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, SPAN, compare, die_at, kill, wait_until
from tests.torture.s3 import AFTER, BEFORE, POLL_S, check_fetched, die, due, put, resume_at, settle
from tests.torture.victims import Victim
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
# In the order of a run's life: what the driver asks for, and which time it does so.
PUTS = [("_run.json", 1), ("/data/", 1), ("/plan/shard-", 1), ("/data/", 8), ("/plan/shard-", 3), ("/plan/part-", 1),
        ("/data/", 14), ("/runs/", 1), ("/runs/", 2), ("_SUCCESS", 1)]  # fmt: skip
# What deletes an output, in this order.
DELETES = [(BEFORE, "_SUCCESS", 1), (AFTER, "_SUCCESS", 1), (AFTER, "/data/", 2), (BEFORE, "/plan/", 1),
           (AFTER, "/runs/", 1), (BEFORE, "_run.json", 1), (AFTER, "_run.json", 1)]  # fmt: skip
DISK_POINTS = ["link:after:1:_run.json", "replace:before:8:/data/", "replace:after:8:/data/",
               "link:before:3:/plan/shard-", "link:after:3:/plan/shard-", "link:after:1:/plan/part-",
               "replace:after:14:/data/", "replace:before:1:_SUCCESS"]  # fmt: skip


@pytest.fixture(scope="module")
def source(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """3 tars of 11 images, a Parquet file of 10, and 9 loose ones, by key."""
    folder = tmp_path_factory.mktemp("kills-s3")
    for letter in "abc":
        make_tar(folder / f"{letter}.tar", named(11))
    pq.write_table(pa.table({"image": [data for _, data in named(10)]}), folder / "d.parquet")
    for name, data in named(9):
        (folder / name).write_bytes(data)
    return put(weed, folder, "inb/kills")


def test_kills_of_a_driver_that_writes_to_s3(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], tmp_path: Path, tally: Tally
) -> None:
    assert run_here("s3://inb/kills/", tmp_path / "whole", **SPAN) == 0
    points = [(kind, text, number) for text, number in PUTS for kind in (BEFORE, AFTER)]
    everything = due(source, "outb/none", fs)
    for index, (kind, text, number) in enumerate(points):
        output, point = f"outb/kills/{index:02d}", f"{kind} {number} {text}"
        command = ["--input", "s3://inb/kills/", "--output", f"s3://{output}", *FLAGS, "--local"]
        die(doomed, kind, f"PUT {text}", number, *command, env=weed.env)
        before, left = tree_bytes(output, fs), due(source, output, fs)
        assert left == everything or index > 2, point  # the first span is not there yet
        proxied.reset()
        assert run_here("s3://inb/kills/", f"s3://{output}", **SPAN) == 0, point
        check_fetched(proxied, left, looked_into="" if "_run.json" in before else "inb/kills/a.tar")
        put_again = [name for name in before if proxied.requests().get(f"PUT {output}/{name}")]
        assert put_again in ([], ["_SUCCESS"]), point
        compare(tally if index == len(points) - 1 else quiet, "driver killed at a request (S3)", len(points), output,
                tmp_path / "whole", fs)  # fmt: skip


def quiet(*_: object, **__: object) -> None:
    """One line of the table is enough for all points."""


def test_a_tar_on_s3_is_read_on_where_its_last_finished_span_ends(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, tmp_path: Path, tally: Tally
) -> None:
    """One of several blocks, most of it beside the images."""
    members = [
        (f"{n}.{ending}", data) for n in range(11) for ending, data in (("png", png(n)), ("bin", bytes(3 << 20)))
    ]
    data = make_tar(tmp_path / "in/big.tar", members).read_bytes()
    put(weed, tmp_path / "in", "inb/big")
    assert run_here("s3://inb/big/", tmp_path / "whole", **SPAN) == 0
    command = ["--input", "s3://inb/big/", "--output", "s3://outb/big", *FLAGS, "--local"]
    spans = sorted((tmp_path / "whole/data").iterdir(), key=lambda file: str(pq.read_table(file)["uri"][0]))
    *written, last = [file.name for file in spans]
    doomed.fail(Rule(BEFORE, f"/data/{last}", "PUT"))  # spans of a shard are written at the same time, in any order
    job = Victim(*command, env=doomed.env(weed.env))
    assert wait_until(lambda: {Path(name).name for name in fs.find("outb/big/data")} >= set(written), job)
    kill(job)
    settle(doomed)
    behind = len(data) - resume_at(data, "s3://inb/big/big.tar", set(rows("outb/big", fs)["uri"].to_pylist()))
    assert behind < len(data) * 0.3  # of three spans two are there
    proxied.reset()
    assert run_here("s3://inb/big/", "s3://outb/big", **SPAN) == 0
    assert behind <= proxied.bytes()["inb/big/big.tar"] <= behind + BLOCK
    compare(tally, "driver killed in a large tar (S3)", 1, "outb/big", tmp_path / "whole", fs)


def test_kills_of_a_driver_that_reads_from_s3_and_writes_to_a_disk(
    weed: Weed, proxied: FaultProxy, source: dict[str, bytes], tmp_path: Path, tally: Tally
) -> None:
    assert run_here("s3://inb/kills/", tmp_path / "whole", **SPAN) == 0
    for point in DISK_POINTS:
        output = tmp_path / point.replace(":", "-").replace("/", "")
        command = ["--input", "s3://inb/kills/", "--output", output, *FLAGS, "--local"]
        die_at(point, *command, env=weed.env)
        left = due(source, str(output), None)
        proxied.reset()
        assert run_here("s3://inb/kills/", output, **SPAN) == 0, point
        check_fetched(proxied, left)
        compare(tally if point == DISK_POINTS[-1] else quiet, "driver killed at a call (S3 to disk)", len(DISK_POINTS),
                output, tmp_path / "whole")  # fmt: skip


def test_kills_while_an_output_on_s3_is_started_over(
    weed: Weed, fs: Any, proxied: FaultProxy, doomed: FaultProxy, source: dict[str, bytes], tmp_path: Path, tally: Tally
) -> None:
    assert run_here("s3://inb/kills/", tmp_path / "whole", **SPAN) == 0
    assert run_here("s3://inb/kills/", "s3://outb/over", **SPAN) == 0
    command = ["--input", "s3://inb/kills/", "--output", "s3://outb/over", *FLAGS, "--local", "--overwrite"]
    for kind, text, number in DELETES:
        die(doomed, kind, f"DELETE {text}", number, *command, env=weed.env)
        proxied.reset()
        assert run_here("s3://inb/kills/", "s3://outb/over", **SPAN, overwrite=True) == 0
        check_fetched(proxied, due(source, "outb/none", fs), looked_into="inb/kills/a.tar")
        compare(tally if (kind, text, number) == DELETES[-1] else quiet, "driver killed in --overwrite (S3)",
                len(DELETES), "outb/over", tmp_path / "whole", fs)  # fmt: skip


@pytest.mark.usefixtures("proxied")
def test_kills_while_failed_rows_on_s3_are_done_again(
    weed: Weed, fs: Any, doomed: FaultProxy, tmp_path: Path, tally: Tally
) -> None:
    big = {3, 9, 10}
    make_tar(tmp_path / "in/a.tar", [(f"{n:02d}.png", png(n, (90, 90) if n in big else (8, 8))) for n in range(14)])
    put(weed, tmp_path / "in", "inb/again")
    assert run_here("s3://inb/again/", tmp_path / "whole", **SPAN) == 0
    points = [(BEFORE, 1), (AFTER, 1), (BEFORE, 2), (AFTER, 2)]
    for index, (kind, number) in enumerate(points):
        output = f"outb/again/{index}"
        assert run_here("s3://inb/again/", f"s3://{output}", **SPAN, max_pixels=1000) == 3
        command = ["--input", "s3://inb/again/", "--output", f"s3://{output}", *FLAGS, "--local", "--retry-failed"]
        die(doomed, kind, "PUT /data/", number, *command, env=weed.env)
        found = rows(output, fs)["status"].to_pylist().count("too_large")
        assert found <= {(BEFORE, 1): 3, (AFTER, 1): 2, (BEFORE, 2): 2, (AFTER, 2): 0}[kind, number]
        assert found or kind == AFTER  # what is kept back is not written; what was written may be several spans at once
        assert run_here("s3://inb/again/", f"s3://{output}", **SPAN, retry_failed=True) == 0
        assert rows(output, fs).equals(rows(tmp_path / "whole"))
    tally("driver killed in --retry-failed (S3)", injected=len(points), lost=0, duplicated=0)


@pytest.mark.parametrize(
    ("kind", "method", "query", "there"),
    [(BEFORE, "PUT", "partNumber=2", False), (BEFORE, "POST", "uploadId=", False), (AFTER, "POST", "uploadId=", True)],
)
def test_a_file_that_goes_up_in_parts_is_there_whole_or_not_at_all(
    weed: Weed, fs: Any, doomed: FaultProxy, tally: Tally, kind: str, method: str, query: str, there: bool
) -> None:
    name, data = f"outb/parts/{kind}{method}", bytes(range(256)) * (110 << 12)
    doomed.fail(Rule(kind, "/parts/", method, query))
    code = "from pipeline import storage; storage.put('s3://' + NAME, bytes(range(256)) * (110 << 12))"
    job = subprocess.Popen(
        [sys.executable, "-c", code.replace("NAME", repr(name))], cwd=ROOT, env=clean_env(doomed.env(weed.env)),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    met = wait_until(lambda: doomed.silences()[0], job, poll=POLL_S)
    kill(job)
    assert met
    settle(doomed)
    tally(f"killed in an upload in parts ({kind} {method})", injected=1, lost=0, duplicated=0)
    assert fs.exists(name) == there
    assert not there or fs.cat_file(name) == data
