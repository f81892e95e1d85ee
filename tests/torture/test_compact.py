"""Compacting killed at every write: the same command continues it, and readers never find a row twice."""

import random
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.copies.survey import SMALL
from pipeline.forget import Forget, forget
from tests.faults import FaultProxy
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, tree_bytes
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import SPAN, die_at, start
from tests.torture.s3 import AFTER, BEFORE, die

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
BEGINNING = [
    "link:before:1:_compact.json", "link:after:1:_compact.json", "unlink:before:1:/._compact.json",
    "link:before:1:/part-", "link:after:1:/part-", "link:before:3:/part-", "link:after:4:/part-",
    "unlink:before:2:/.part-", "fsync:before:1:", "fsync:after:2:",
]  # fmt: skip
GROWN = [
    "replace:before:1:/part-", "replace:after:1:/part-", "replace:after:2:/part-",
    "link:before:1:/part-", "link:after:1:/part-",
]  # fmt: skip
# The first copy, then copies that are brought up to date: files are replaced before new ones are written.
IN_A_BUCKET = [("PUT /_compact.json", 1), ("PUT /part-", 1), ("PUT /part-", 2), ("PUT /part-", 3)]
MERGING = ["replace:before:1:/part-", "replace:after:1:/part-", "unlink:before:3:/part-", "unlink:after:5:/part-"]


def held(dest: Path) -> list[str]:
    """The uris of all rows that readers find, sorted."""
    return sorted(uri for path in dest.glob("part-*.parquet") for uri in pq.read_table(path)["uri"].to_pylist())


def check(output: Path, dest: Path, point: str) -> None:
    """The copy holds what the output does, as it is, and nothing but it."""
    assert held(dest) == sorted(rows(output)["uri"].to_pylist()), point
    copy = pq.read_table(sorted(dest.glob("part-*.parquet"))).replace_schema_metadata(None).sort_by("uri")
    assert copy.drop_columns(set(copy.column_names) & {"image"}).equals(rows(output)), point
    assert not [name for name in tree_bytes(dest) if name.endswith(".tmp")], point


def finished(dest: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in dest.glob("part-*.parquet")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "in"
    for letter in "abc":
        make_tar(folder / f"{letter}.tar", named(11))
    for name, data in named(9):
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("images", [False, True])
def test_kills_while_a_copy_is_begun(images: bool, source: Path, tmp_path: Path, tally: Tally) -> None:
    output, dest = tmp_path / "out", tmp_path / "big"
    assert run_here(source, output, **SPAN) == 0
    flags = ["--rows-per-file", 10, *(["--images"] if images else [])]
    for point in BEGINNING:
        shutil.rmtree(dest, ignore_errors=True)
        die_at(point, output, dest, *flags, script="compact.py")
        found, before = held(dest), finished(dest)
        assert len(found) == len(set(found)), point
        assert compact(str(output), str(dest), 10, images=images).lost == 0, point
        check(output, dest, point)
        assert finished(dest).items() >= before.items(), point  # what was whole is not written again
        assert compact(str(output), str(dest), 10, images=images).written == 0, point
    tally(f"a copy begun and killed, {images=}", injected=len(BEGINNING), lost=0, duplicated=0)


def test_kills_while_a_copy_is_brought_up_to_date(source: Path, tmp_path: Path, tally: Tally) -> None:
    mine, output, old, dest = tmp_path / "in", tmp_path / "out", tmp_path / "old", tmp_path / "big"
    shutil.copytree(source, mine)
    assert run_here(mine, output, **SPAN) == 0
    compact(str(output), str(old), 10)
    make_tar(mine / "aa.tar", named(14))  # new
    make_tar(mine / "b.tar", named(7))  # shorter
    assert run_here(mine, output, **SPAN) == 0
    (tmp_path / "gone.txt").write_text(f"{mine}/0003.png\n{mine}/c.tar#0010.png\n")
    assert forget(Forget(str(output), str(tmp_path / "gone.txt"))) == 0
    for point in GROWN:
        shutil.rmtree(dest, ignore_errors=True)
        shutil.copytree(old, dest)
        die_at(point, output, dest, "--rows-per-file", 10, script="compact.py")
        found = held(dest)
        assert len(found) == len(set(found)), point
        compact(str(output), str(dest), 10)
        check(output, dest, point)
        assert compact(str(output), str(dest), 10).written == 0, point
    tally("a copy brought up to date and killed", injected=len(GROWN), lost=0, duplicated=0)


def test_kills_while_small_files_are_merged(tmp_path: Path, tally: Tally) -> None:
    mine, output, old, dest = tmp_path / "in", tmp_path / "out", tmp_path / "old", tmp_path / "big"
    for night in range(SMALL):
        make_tar(mine / f"n{night}.tar", named(3))
        assert run_here(mine, output, **SPAN) == 0
        if night < SMALL - 1:
            compact(str(output), str(old), 100)
    for point in MERGING:
        shutil.rmtree(dest, ignore_errors=True)
        shutil.copytree(old, dest, copy_function=shutil.copy2)
        compact(str(output), str(dest), 6)  # no merging: these are half full
        assert len(finished(dest)) == SMALL, point
        die_at(point, output, dest, "--rows-per-file", 100, script="compact.py")
        compact(str(output), str(dest), 100)
        check(output, dest, point)
        assert len(finished(dest)) == 1, point
    tally("small files merged and killed", injected=len(MERGING), lost=0, duplicated=0)


def test_kills_while_a_copy_in_a_bucket_is_written(
    source: Path, fs: Any, doomed: FaultProxy, tmp_path: Path, tally: Tally, s3_env: dict[str, str]
) -> None:
    mine, output, dest = tmp_path / "in", tmp_path / "out", "outb/killed-copy"
    shutil.copytree(source, mine)
    assert run_here(mine, output, **SPAN) == 0
    command = [output, f"s3://{dest}", "--rows-per-file", 10]
    for turn, (asked, number) in enumerate(IN_A_BUCKET):
        for kind in (BEFORE, AFTER):
            die(doomed, kind, asked, number, *command, env=s3_env, script="compact.py")
            found = uris_in(fs, dest)
            assert len(found) == len(set(found)), (kind, asked)
        compact(str(output), f"s3://{dest}", 10)
        assert sorted(uris_in(fs, dest)) == sorted(rows(output)["uri"].to_pylist()), asked
        assert compact(str(output), f"s3://{dest}", 10).written == 0, asked
        make_tar(mine / "b.tar", named(12 + turn))  # changed
        make_tar(mine / f"z{turn}.tar", named(11))  # new
        assert run_here(mine, output, **SPAN) == 0
    tally("a copy in a bucket killed at a request", injected=2 * len(IN_A_BUCKET), lost=0, duplicated=0)


def uris_in(fs: Any, dest: str) -> list[str]:
    files = [fs.cat_file(name) for name in fs.glob(f"{dest}/part-*.parquet")]
    return [uri for data in files for uri in pq.read_table(pa.BufferReader(data))["uri"].to_pylist()]


def test_pictures_take_bounded_memory(tmp_path: Path, tally: Tally) -> None:
    """1.5 GB of them become files of 512 MiB, of which one at a time is in memory."""
    chance, whole = random.Random(0), png(7)
    (tmp_path / "in").mkdir()
    for number in range(1500):
        (tmp_path / f"in/{number:05d}.png").write_bytes(whole + chance.randbytes(1_000_000))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness") == 0
    job = start(tmp_path / "out", tmp_path / "big", "--rows-per-file", 100_000, "--images", script="compact.py")
    most = 0
    while job.poll() is None:
        with suppress(OSError, IndexError):
            status = Path(f"/proc/{job.pid}/status").read_text()
            most = max(most, int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) << 10)
        time.sleep(0.05)
    assert job.returncode == 0
    sizes = [path.stat().st_size for path in sorted((tmp_path / "big").glob("part-*.parquet"))]
    assert sum(sizes) > 1_500_000_000
    assert max(sizes) < 700 << 20
    assert most < 1_600_000_000, f"{most >> 20} MiB"
    tally(f"1.5 GB of pictures copied in {most >> 20} MiB", injected=0, lost=0, duplicated=0)
