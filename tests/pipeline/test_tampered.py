"""An output in which somebody has removed or put something: that is said, and no image comes twice or stays."""

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import StorageError
from pipeline.forget import Forget, forget
from pipeline.output.place import Place
from pipeline.page import page
from pipeline.plan.verify import verify
from tests.flow import make_tar, png, run_here
from tests.helpers import rows

FLAGS: dict[str, Any] = {"task": "brightness", "span_size": 4, "batch_size": 4}


def put(folder: Path, first: int, count: int, shade: int = 0) -> None:
    folder.mkdir(exist_ok=True)
    for number in range(first, first + count):
        (folder / f"{number:03d}.png").write_bytes(png(number + shade))


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Two parts of loose images, and a tar."""
    make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(n)) for n in range(5)])
    for first in (0, 10):
        put(tmp_path / "in", first, 6)
        assert run_here(tmp_path / "in", tmp_path / "out", **FLAGS) == 0
    return tmp_path / "out"


def uris(output: Path) -> list[str]:
    return sorted(rows(output)["uri"].to_pylist())


def forget_one(output: Path, uri: str) -> None:
    (output.parent / "uris").write_text(f"{uri}\n")
    assert forget(Forget(str(output), str(output.parent / "uris"))) == 0


def test_forgetting_works_again_where_what_was_forgotten_before_was_removed(output: Path) -> None:
    """So that these images come back; files are known to hold none of those that the first part named."""
    tar = f"{output.parent}/in/a.tar"
    forget_one(output, f"{output.parent}/in/001.png")
    forget_one(output, f"{tar}#1.png")
    for part in (output / "plan").glob("forgotten-*"):
        part.unlink()
    for uri in (f"{output.parent}/in/002.png", f"{tar}#2.png"):
        forget_one(output, uri)
        assert uri not in uris(output)
    assert len(uris(output)) == 17 - 4


@pytest.mark.parametrize("part", [0, 1])
def test_a_part_of_the_plan_that_was_removed_doubles_no_image(part: int, output: Path) -> None:
    before = uris(output)
    (output / f"plan/part-00000{part}.parquet").unlink()
    put(output.parent / "in", 20, 2)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"is in no part of the plan: restore what was removed from .*/plan, or"):
            run_here(output.parent / "in", output, **FLAGS)
        assert uris(output) == before
    planned = {name for one in (output / "plan").glob("part-*") for name in pq.read_table(one)["span"].to_pylist()}
    for file in (output / "data").glob("images-*"):
        if file.stem not in planned:
            file.unlink()  # as the message says
    assert run_here(output.parent / "in", output, **FLAGS) == 0
    assert uris(output) == sorted([*before, *(f"{output.parent}/in/0{number}.png" for number in (20, 21))])
    assert verify(Place.of(str(output))).green


def test_a_part_of_changes_without_the_part_that_it_changes(output: Path) -> None:
    put(output.parent / "in", 0, 2, shade=100)
    assert run_here(output.parent / "in", output, **FLAGS) == 0
    (output / "plan/part-000000.parquet").unlink()
    with pytest.raises(StorageError, match="is in no part of the plan"):
        run_here(output.parent / "in", output, **FLAGS)
    with pytest.raises(StorageError, match="is in no part of the plan"):
        forget_one(output, f"{output.parent}/in/010.png")


def test_a_folder_in_the_place_of_the_next_part_ends_the_run(output: Path) -> None:
    for name in ("part-000002.parquet", "forgotten-000000.parquet"):
        (output / "plan" / name).mkdir()
    put(output.parent / "in", 20, 1)
    with pytest.raises(StorageError, match=r"cannot be written \(Is a directory \(.*/part-000002\.parquet\)\)"):
        run_here(output.parent / "in", output, **FLAGS)
    with pytest.raises(StorageError, match=r"cannot be written \(Is a directory \(.*/forgotten-000000\.parquet\)\)"):
        forget_one(output, f"{output.parent}/in/001.png")


def test_tables_of_others_among_ours_are_passed_by(output: Path) -> None:
    for place in ("runs/x.spans.parquet", "data/images-x.parquet"):
        pq.write_table(pa.table({"a": [1], "b": ["x"]}), output / place)
        page.write(str(output))
    put(output.parent / "in", 20, 1)
    with pytest.raises(StorageError, match=r"images-x\.parquet is no file of ours or damaged: remove it and run again"):
        run_here(output.parent / "in", output, **FLAGS)
    (output / "data/images-x.parquet").unlink()
    assert run_here(output.parent / "in", output, **FLAGS) == 0


def test_a_table_of_others_as_what_is_forgotten_is_named(output: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), output / "plan/forgotten-000000.parquet")
    with pytest.raises(StorageError, match=r"forgotten-000000\.parquet is damaged: restore this part of the plan"):
        run_here(output.parent / "in", output, **FLAGS)


def test_an_output_that_was_moved_goes_on(output: Path) -> None:
    moved = output.parent / "moved"
    shutil.move(output, moved)
    put(output.parent / "in", 20, 1)
    assert run_here(output.parent / "in", moved, **FLAGS) == 0
    assert verify(Place.of(str(moved))).green
