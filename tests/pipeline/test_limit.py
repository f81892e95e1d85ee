"""`--limit`: the first images, and the same output continued when it is raised or dropped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.output.place import Place
from pipeline.plan.verify import verify
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, tree_bytes
from tests.outputs import newest_report
from tests.pipeline.source.test_archives import make_tar_gz, make_zip

COUNT, SIZE = 20, 8  # images of each shard, and of a span


def members(letter: str) -> list[tuple[str, bytes]]:
    return [(f"{letter}{number:02d}.png", png(number)) for number in range(COUNT)]


def loose(folder: Path) -> None:
    folder.mkdir()
    for letter in "ab":
        for name, data in members(letter):
            (folder / name).write_bytes(data)


def tars(folder: Path) -> None:
    for letter in "ab":
        make_tar(folder / f"{letter}.tar", members(letter))


def zips(folder: Path) -> None:
    for letter in "ab":
        make_zip(folder / f"{letter}.zip", members(letter))


def compressed(folder: Path) -> None:
    for letter in "ab":
        make_tar_gz(folder / f"{letter}.tar.gz", members(letter))


def tables(folder: Path) -> None:
    folder.mkdir()
    for letter in "ab":
        names, images = zip(*members(letter), strict=True)
        pq.write_table(pa.table({"key": names, "image": images}), folder / f"{letter}.parquet", row_group_size=7)


KINDS: dict[str, Callable[[Path], None]] = {  # folders of 40 images, in two shards or loose
    "loose": loose, "tar": tars, "parquet": tables, "zip": zips, "tar.gz": compressed,
}  # fmt: skip


def run(source: Path, limit: int | None = None, **flags: object) -> int:
    """How many images one more run to `out` beside the source has done; all its counts must agree."""
    output = source.parent / "out"
    assert run_here(source, output, "brightness", span_size=SIZE, limit=limit, **flags) == 0
    report = json.loads(newest_report(output).read_text())
    audit, found = report["audit"], rows(output)
    assert audit["planned"] == audit["ok"] == len(found) == len(set(found["uri"].to_pylist()))
    assert audit["missing"] == audit["duplicates"] == 0
    assert not audit["unfinished"]
    assert verify(Place.of(str(output))).green
    assert (output / "_SUCCESS").exists()
    done: int = report["images"]["done"]
    return done


def keys(source: Path) -> list[str]:
    return sorted(key.removesuffix(".png") for key in rows(source.parent / "out")["key"].to_pylist())


FIRST = [f"{letter}{number:02d}" for letter in "ab" for number in range(COUNT)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_output_is_continued_when_its_limit_is_raised_and_dropped(kind: str, tmp_path: Path) -> None:
    source = tmp_path / "in"
    KINDS[kind](source)
    for limit in (10, 13, 27):
        run(source, limit)
        assert keys(source) == FIRST[:limit]
    for limit in (27, 10):
        assert run(source, limit) == 0
    assert run(source) <= 13 + 7  # those behind the first 16 of a shard again
    assert keys(source) == FIRST
    for again in (10, None):
        assert run(source, again) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "loose"])
def test_what_was_begun_with_a_limit_ends_as_any_output_of_shards(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "in")
    for limit in (10, 27, None):
        run(tmp_path / "in", limit)
    assert run_here(tmp_path / "in", tmp_path / "whole", "brightness", span_size=SIZE) == 0
    for folder in ("data", "plan"):
        assert tree_bytes(tmp_path / "out" / folder) == tree_bytes(tmp_path / "whole" / folder)


@pytest.mark.parametrize("kind", ["loose", "tar"])
def test_a_deleted_span_comes_back_within_a_limit(kind: str, tmp_path: Path) -> None:
    KINDS[kind](tmp_path / "in")
    run(tmp_path / "in", 27)
    before = tree_bytes(tmp_path / "out/data")
    for name in list(before)[::2]:
        (tmp_path / "out/data" / name).unlink()
        run(tmp_path / "in", 10)
        run(tmp_path / "in", 27)
        assert tree_bytes(tmp_path / "out/data") == before


def test_a_gap_in_a_stopped_shard_shows_when_every_row_is_read(tmp_path: Path) -> None:
    tars(tmp_path / "in")
    run(tmp_path / "in", 13)
    first, _ = sorted((tmp_path / "out/data").iterdir())
    first.unlink()
    assert verify(Place.of(str(tmp_path / "out"))).missing == SIZE


@pytest.mark.parametrize(("count", "shade"), [(30, 50), (3, 0)])
def test_a_stopped_shard_that_changes_is_read_again_up_to_the_limit(tmp_path: Path, count: int, shade: int) -> None:
    tars(tmp_path / "in")
    run(tmp_path / "in", 13)
    make_tar(tmp_path / "in/a.tar", [(f"a{number:02d}.png", png(shade + number)) for number in range(count)])
    run(tmp_path / "in", 13)
    assert keys(tmp_path / "in")[: min(13, count)] == [f"a{number:02d}" for number in range(min(13, count))]
    run(tmp_path / "in")
    assert run_here(tmp_path / "in", tmp_path / "whole", "brightness", span_size=SIZE) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "whole/data")


def test_a_finished_shard_that_grows_is_read_up_to_the_limit(tmp_path: Path) -> None:
    tars(tmp_path / "in")
    run(tmp_path / "in", 25)  # all of the first shard and five images of the second
    make_tar(tmp_path / "in/a.tar", [(f"a{number:02d}.png", png(number)) for number in range(50)])
    for limit, planned in ((25, 25), (30, 30), (30, 30), (None, 70)):
        run(tmp_path / "in", limit)
        assert len(keys(tmp_path / "in")) == planned
    assert run_here(tmp_path / "in", tmp_path / "whole", "brightness", span_size=SIZE) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "whole/data")


def test_a_short_span_that_stayed_although_its_shard_was_read_to_its_end_is_mended(tmp_path: Path) -> None:
    tars(tmp_path / "in")
    run(tmp_path / "in", 18)  # the last span of the first shard has 2 of its 4 images
    short = sorted((tmp_path / "out/data").iterdir())[-1]
    shutil.copy(short, tmp_path / "short")
    run(tmp_path / "in")
    before = tree_bytes(tmp_path / "out/data")
    shutil.copy(tmp_path / "short", short)  # as if a run had died between the entry and this file
    assert verify(Place.of(str(tmp_path / "out"))).missing == 2
    assert run(tmp_path / "in") == 2
    assert tree_bytes(tmp_path / "out/data") == before


def test_failed_rows_within_a_limit_are_done_again(tmp_path: Path) -> None:
    images = [(f"{number:02d}.png", png(number, (300, 300) if number == 9 else (8, 8))) for number in range(COUNT)]
    make_tar(tmp_path / "in/a.tar", images)
    out = tmp_path / "out"
    assert run_here(tmp_path / "in", out, "brightness", span_size=SIZE, limit=13, max_pixels=80_000) == 3
    assert run(tmp_path / "in", 13, retry_failed=True) == 1
    assert run(tmp_path / "in") == COUNT - 13


def test_repeated_names_are_counted_on_behind_a_limit(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [(f"{number % 3}.png", png(number)) for number in range(COUNT)])
    for limit in (10, 13, None):
        run(tmp_path / "in", limit)
    assert run_here(tmp_path / "in", tmp_path / "whole", "brightness", span_size=SIZE) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(tmp_path / "whole/data")
