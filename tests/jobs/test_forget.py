"""Forgotten images have no row, and no later run brings them back; the audit counts them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.forget import Forget, forget
from pipeline.output.place import Place
from pipeline.page import page
from pipeline.page.state import verified_line
from pipeline.plan.drop import drop
from pipeline.plan.inventory import Inventory
from pipeline.plan.verify import verify
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, run_job, tree_bytes
from tests.outputs import newest_report

FLAGS: dict[str, Any] = {"task": "brightness", "span_size": 4, "batch_size": 4}


def run_on(source: object, output: object, **more: Any) -> int:
    return run_here(source, output, **FLAGS, **more)


def forget_uris(output: object, *uris: str, **more: Any) -> None:
    file = Path(str(more.pop("beside", output)) + ".txt")
    file.parent.mkdir(exist_ok=True, parents=True)
    file.write_text("\n".join(uris) + "\n")
    assert forget(Forget(str(output), str(file), **more)) == 0


def uris_of(output: Path) -> set[str]:
    return set(rows(output)["uri"].to_pylist())


def audit_of(output: Path) -> str:
    return str(json.loads(newest_report(output).read_text())["audit"]["line"])


def verified(output: Path, forgotten: int) -> None:
    found = verify(Place.of(str(output)))
    assert found.green, found
    assert found.forgotten == forgotten


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "in")


def make_source(folder: Path) -> Path:
    """Ten loose images; a tar of eleven, of which one name comes twice; a table of six. 27 images, 8 spans."""
    folder.mkdir()
    for number in range(10):
        (folder / f"{number}.png").write_bytes(png(number))
    make_tar(folder / "a.tar", members(10))
    pq.write_table(pa.table({"image": [png(200 + n) for n in range(6)]}), folder / "t.parquet")
    return folder


def members(first: int) -> list[tuple[str, bytes]]:
    """Ten members, and the second of them once more at the end."""
    named = [(f"m{n}.png", png(first + n)) for n in range(10)]
    return [*named, ("m1.png", png(first + 100))]


@pytest.fixture
def some(source: Path) -> list[str]:
    """Of each kind of source some; in the tar the first one of a name that is repeated in a later span."""
    return [f"{source}/3.png", f"{source}/a.tar#m1.png", f"{source}/a.tar#m9.png", f"{source}/t.parquet#5"]


def test_forgotten_images_stay_forgotten(source: Path, some: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    before = rows(output)
    whole = tree_bytes(output / "data")
    forget_uris(output, *some)
    assert uris_of(output) == set(before["uri"].to_pylist()) - set(some)
    assert "planned 27 = ok 23 + failed 0 + forgotten 4, missing 0, duplicates 0" in audit_of(output)
    verified(output, forgotten=4)
    after = tree_bytes(output / "data")
    assert sum(whole[name] != after[name] for name in whole) == 4  # the files that held them
    assert run_on(source, output) == 0
    assert run_on(source, output, retry_failed=True) == 0
    assert tree_bytes(output / "data") == after
    assert audit_of(output).startswith("planned 27 = ok 23 + failed 0 + forgotten 4,")


def test_files_written_anew_have_the_same_bytes(source: Path, some: list[str], tmp_path: Path) -> None:
    """Whatever it is that writes a span: forgetting, or a run that knows what is forgotten. The columns hold lists."""
    output = tmp_path / "out"
    lists: dict[str, Any] = {**FLAGS, "task": "label", "with_embedding": True}
    assert run_here(source, output, **lists) == 0
    forget_uris(output, *some, *(f"{source}/{n}.png" for n in range(4)))  # all images of a span
    after = tree_bytes(output / "data")
    shutil.rmtree(output / "data")
    assert run_here(source, output, **lists) == 0
    assert tree_bytes(output / "data") == after
    verified(output, forgotten=7)
    assert "+ forgotten 7" in Path(page.write(str(output))).read_text()
    # A shard whose entry is gone is read on behind a finished span, with the names that were used before.
    for path in (*(output / "plan").glob("shard-a-*"), *(output / "data").glob("a-*-000000008.parquet")):
        path.unlink()
    assert run_here(source, output, **lists) == 0
    assert tree_bytes(output / "data") == after


def test_kept_columns_of_any_type_have_the_same_bytes_too(source: Path, tmp_path: Path) -> None:
    output, shard = tmp_path / "out", source / "t.parquet"
    tags = pa.array([[{"a": [n, None]}] if n else None for n in range(6)])
    pq.write_table(pq.read_table(shard).append_column("tags", tags), shard)
    assert run_on(shard, output, keep=("tags",)) == 0
    forget_uris(output, f"{shard}#1", f"{shard}#4")
    after = tree_bytes(output / "data")
    shutil.rmtree(output / "data")
    assert run_on(shard, output, keep=("tags",)) == 0
    assert tree_bytes(output / "data") == after


def test_the_same_uris_again_and_unknown_ones(
    source: Path, some: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    forget_uris(output, *some)
    before = tree_bytes(output / "data"), tree_bytes(output / "plan")
    capsys.readouterr()
    forget_uris(output, *some, f"{source}/none.png", f"{source}/a.tar#none.png")
    said = capsys.readouterr().out
    assert "images forgotten: 0" in said
    assert "forgotten before: 4" in said
    assert f"not in this output: 2, such as {source}/a.tar#none.png, {source}/none.png" in said
    assert (tree_bytes(output / "data"), tree_bytes(output / "plan")) == before


def test_a_list_may_begin_with_a_byte_order_mark(source: Path, some: list[str], tmp_path: Path) -> None:
    assert run_on(source, tmp_path / "out") == 0
    forget_uris(tmp_path / "out", f"\ufeff{some[0]}", *some[1:])
    assert uris_of(tmp_path / "out").isdisjoint(some)


def test_failed_rows_are_done_again_without_the_forgotten(source: Path, some: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    (source / "3.png").write_bytes(b"none")
    (source / "4.png").write_bytes(b"none")
    assert run_on(source, output, max_pixels=60) == 3  # all are too large
    forget_uris(output, *some)
    assert run_on(source, output, retry_failed=True, max_failed=0.5) == 0
    assert "ok 22 + failed 1 + forgotten 4" in audit_of(output)
    assert not uris_of(output) & set(some)
    verified(output, forgotten=4)


def test_a_changed_shard_brings_none_back_and_a_new_version_of_a_loose_image_does(
    source: Path, some: list[str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    forget_uris(output, *some)
    make_tar(source / "a.tar", [("new.png", png(1)), *members(30)])
    assert run_on(source, output) == 0
    assert not uris_of(output) & set(some)
    assert f"{source}/a.tar#m1.png~2" in uris_of(output)
    assert "planned 28 = ok 24 + failed 0 + forgotten 4" in audit_of(output)
    (source / "3.png").write_bytes(png(77, (9, 9)))
    assert run_on(source, output) == 0
    assert uris_of(output) & set(some) == {some[0]}
    assert "planned 28 = ok 25 + failed 0 + forgotten 3" in audit_of(output)
    verified(output, forgotten=3)
    forget_uris(output, some[0])
    assert run_on(source, output) == 0
    assert not uris_of(output) & set(some)
    verified(output, forgotten=4)


def test_an_image_that_a_run_brings_back_meanwhile_stays(source: Path, some: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    forget_uris(output, *some)
    there = Inventory.of(Place.of(str(output)))
    for seen in (output / "runs").glob("*.spans.parquet"):
        seen.unlink()  # nobody knows any more of which images files are clear
    there.ledger.seen.clear()
    (source / "3.png").write_bytes(png(77, (9, 9)))
    assert run_on(source, output) == 0
    drop(there.planner, there.ledger, there.bound)
    assert uris_of(output) & set(some) == {some[0]}
    verified(output, forgotten=3)


def test_a_run_does_what_was_named_and_not_removed(source: Path, some: list[str], tmp_path: Path) -> None:
    """As after a kill behind the plan's part, and as where a run beside it has written rows back."""
    output, other = tmp_path / "out", tmp_path / "other"
    assert run_on(source, output) == 0
    shutil.copytree(output, other)
    forget_uris(output, *some)
    shutil.copytree(other / "data", output / "data", dirs_exist_ok=True)
    found = verify(Place.of(str(output)))
    assert (found.green, found.remembered) == (False, 4)
    assert "4 rows of forgotten images" in verified_line(found)
    assert run_on(source, output) == 0
    assert not uris_of(output) & set(some)
    verified(output, forgotten=4)


def test_limits_and_forgotten_images(source: Path, tmp_path: Path) -> None:
    output, tar = tmp_path / "out", source / "a.tar"
    assert run_on(tar, output, limit=6) == 0
    forget_uris(output, f"{tar}#m1.png", f"{tar}#m5.png")
    assert run_on(tar, output, limit=6) == 0
    assert len(rows(output)) == 4
    assert run_on(tar, output) == 0
    assert len(rows(output)) == 9
    verified(output, forgotten=2)


def test_the_row_of_a_damaged_shard_is_forgotten_in_that_version(source: Path, tmp_path: Path) -> None:
    output, tar = tmp_path / "out", source / "a.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: 5 * 1024 + 600])
    assert run_on(tar, output) == 3
    failed = rows(output).filter(pc.not_equal(rows(output)["status"], "ok"))
    forget_uris(output, *failed["uri"].to_pylist())
    assert str(tar) in failed["uri"].to_pylist()
    assert run_on(tar, output) == 0
    verified(output, forgotten=len(failed))
    tar.write_bytes(whole)
    assert run_on(tar, output) == 0
    verified(output, forgotten=len(failed) - 1)


def test_the_page_counts_them(source: Path, some: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    forget_uris(output, *some)
    text = Path(page.write(str(output), None, verify(Place.of(str(output))))).read_text()
    assert "+ forgotten 4" in text
    assert "4 images forgotten" in text
    assert "Complete: every planned image is accounted for." in text


def test_a_copy_says_that_it_is_older(source: Path, some: list[str], tmp_path: Path) -> None:
    output, copy = tmp_path / "out", tmp_path / "copy"
    assert run_on(source, output) == 0
    assert compact(str(output), str(copy), 100)[:2] == (27, 1)
    assert "is a copy of" in run_job("report.py", copy, code=0).stdout
    forget_uris(output, *some)
    assert "older: 4 images were forgotten since; the same jobs/compact.py" in run_job("report.py", copy, code=1).stdout
    assert compact(str(output), str(copy), 100)[:2] == (23, 1)
    assert not set(some) & set(pq.read_table(copy)["uri"].to_pylist())
    assert "as new as that" in run_job("report.py", copy, code=0).stdout
    (source / "new.png").write_bytes(png(3))
    assert run_on(source, output) == 0
    assert "older: files were written since" in run_job("report.py", copy, code=1).stdout


@pytest.mark.usefixtures("s3_env")
def test_the_output_may_be_in_a_bucket(source: Path, some: list[str], tmp_path: Path) -> None:
    output = "s3://outb/forgotten"
    assert run_on(source, output) == 0
    forget_uris(output, *some, beside=tmp_path / "named")
    assert run_on(source, output) == 0
    found = verify(Place.of(output))
    assert (found.green, found.forgotten, found.rows) == (True, 4, 23)


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    def refused(*args: object) -> str:
        return run_job("forget.py", *args, code=2, timeout=60).stderr

    output = tmp_path / "out"
    assert "--uris" in refused(output)
    (tmp_path / "none.txt").write_text("\n")
    assert "names no image" in refused(output, "--uris", tmp_path / "none.txt")
    assert "away.txt: No such file or directory" in refused(output, "--uris", tmp_path / "away.txt")
    assert "--max-gone 2" in refused(output, "--gone", "--max-gone", 2)
    (tmp_path / "one.txt").write_text("x\n")
    assert "is no output of these jobs" in refused(output, "--uris", tmp_path / "one.txt")


def test_a_run_that_is_at_work_is_left_to_it(source: Path, some: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    (tmp_path / "named.txt").write_text("\n".join(some))
    (output / "_lease.json").write_text(json.dumps({"run": "r", "host": "h", "seconds": 1.0, "renewals": 1}))
    assert run_job("forget.py", output, "--uris", tmp_path / "named.txt", code=0).stdout.startswith(
        "images forgotten: 4\n"
    )
    assert not (output / "_lease.json").exists()
