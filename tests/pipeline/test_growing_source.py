"""The same command on a source that has grown, changed or shrunk: what is new or changed is done, and nothing else."""

import json
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.engine.reader import Reader
from pipeline.errors import ConfigError, PipelineError
from pipeline.output.place import Place
from pipeline.plan import planner
from pipeline.plan.rows import LooseSpan
from pipeline.plan.verify import verify
from tests.faults import FaultProxy
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, tree_bytes
from tests.outputs import newest_report
from tests.weed import Weed


def save(folder: Path, **images: int) -> None:
    """Images by name, each of one shade."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, shade in images.items():
        (folder / f"{name}.png").write_bytes(png(shade))


def run(folder: Path, **flags: int) -> Path:
    """The output of one more run from `in` to `out`."""
    assert run_here(folder / "in", folder / "out", "brightness", **flags) == 0
    return folder / "out"


def done(output: Path) -> int:
    """How many images the last run did."""
    count: int = json.loads(newest_report(output).read_text())["images"]["done"]
    return count


@pytest.fixture
def loose(tmp_path: Path) -> Path:
    """A folder with three loose images, `in`, and their output, `out`."""
    save(tmp_path / "in", b=10, d=20, f=30)
    run(tmp_path)
    return tmp_path


def test_new_images_leave_finished_files_alone_wherever_their_names_sort(loose: Path) -> None:
    first = {path: path.stat().st_mtime_ns for path in (loose / "out/data").iterdir()}
    save(loose / "in", a=40, c=50)
    output = run(loose)
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list((output / "data").iterdir())) == 2
    assert sorted(rows(output)["key"].to_pylist()) == ["a.png", "b.png", "c.png", "d.png", "f.png"]


def test_a_changed_image_is_done_and_no_other(loose: Path) -> None:
    save(loose / "in", d=255)
    assert done(run(loose)) == 1


def test_a_changed_image_has_the_answer_of_the_new_one(loose: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    save(loose / "in", d=255)
    found = dict(zip(*(rows(run(loose))[name].to_pylist() for name in ("key", "brightness")), strict=True))
    alone = tmp_path_factory.mktemp("alone")
    save(alone / "in", d=255)
    assert found["d.png"] == rows(run(alone))["brightness"][0].as_py()


def test_a_change_that_is_done_is_not_done_again(loose: Path) -> None:
    save(loose / "in", d=255)
    run(loose)
    assert done(run(loose)) == 0


def test_another_folder_adds_to_the_same_output(loose: Path) -> None:
    before = tree_bytes(loose / "out/data")
    save(loose / "elsewhere", b=40)
    assert run_here(loose / "elsewhere", loose / "out", "brightness") == 0
    assert tree_bytes(loose / "out/data").items() >= before.items()
    assert rows(loose / "out")["key"].to_pylist() == ["b.png", "b.png", "d.png", "f.png"]


def test_more_loose_images_than_a_driver_can_plan_are_refused(loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(loose / "in", **{f"n{number}": number for number in range(9)})
    monkeypatch.setattr(planner, "CHUNK", 2)
    monkeypatch.setattr(planner, "MOST_LOOSE", 5)
    with pytest.raises(ConfigError, match=r"more than 5 loose images .* Parquet files"):
        run_here(loose / "in", loose / "out", "brightness")
    monkeypatch.setattr(planner, "MOST_LOOSE", 50)
    assert len(rows(run(loose))) == 12


def test_rows_of_a_removed_image_stay(loose: Path) -> None:
    (loose / "in/b.png").unlink()
    output = run(loose)
    assert sorted(rows(output)["key"].to_pylist()) == ["b.png", "d.png", "f.png"]
    assert json.loads(newest_report(output).read_text())["audit"]["planned"] == 3


def shard(folder: Path, count: int, shade: int) -> Path:
    return make_tar(folder / "in/s.tar", [(f"{i:03d}.png", png(shade + i)) for i in range(count)])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with a shard of 70 images beside one of one, `in`, and their output in spans of 32, `out`."""
    shard(tmp_path, 70, 0)
    make_tar(tmp_path / "in/other.tar", [("x.png", png(1))])
    assert len(list((run(tmp_path, span_size=32) / "data").iterdir())) == 4
    return tmp_path


@pytest.mark.parametrize(
    ("count", "shade"),
    [(100, 0), (70, 50), (20, 0), (20, 50)],
    ids=["grown", "changed", "shrunk", "shrunk and changed"],
)
def test_a_shard_of_a_new_version_is_written_as_in_a_fresh_output(shards: Path, count: int, shade: int) -> None:
    shard(shards, count, shade)
    run(shards)
    assert run_here(shards / "in", shards / "fresh", "brightness", span_size=32) == 0
    assert tree_bytes(shards / "out/data") == tree_bytes(shards / "fresh/data")


def test_a_shard_may_grow_change_and_shrink_one_after_another(shards: Path) -> None:
    for count, shade in ((100, 0), (100, 50), (20, 50)):
        shard(shards, count, shade)
        run(shards)
    assert run_here(shards / "in", shards / "fresh", "brightness", span_size=32) == 0
    assert tree_bytes(shards / "out/data") == tree_bytes(shards / "fresh/data")


def test_rows_of_a_removed_shard_stay(shards: Path) -> None:
    (shards / "in/s.tar").unlink()
    assert len(rows(run(shards))) == 71


def killed_before_its_last_span(folder: Path, *, seen: bool = False) -> None:
    """The output as a kill leaves it: the shard's entry is there, its second span is not; `seen` once by a run."""
    span = next(path for path in (folder / "out/data").iterdir() if path.name.endswith("-000000032.parquet"))
    span.unlink()
    if not seen:
        shutil.rmtree(folder / "out/runs")


def test_a_shard_that_is_removed_before_it_is_finished_counts_by_its_rows(
    shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    killed_before_its_last_span(shards)
    (shards / "in/s.tar").unlink()
    output = run(shards)
    assert len(rows(output)) == 70 - 32 + 1
    audit = json.loads(newest_report(output).read_text())["audit"]
    assert (audit["planned"], audit["missing"], audit["gone"]) == (39, 0, [str(shards / "in/s.tar")])
    assert "gone and were not finished before: 1" in capsys.readouterr().out
    assert verify(Place.of(str(output))).green


def test_a_finished_span_that_is_lost_is_missing_also_when_its_shard_is_removed(shards: Path) -> None:
    killed_before_its_last_span(shards, seen=True)
    (shards / "in/s.tar").unlink()
    with pytest.raises(PipelineError, match="missing 32"):
        run(shards)
    assert verify(Place.of(str(shards / "out"))).missing == 32


def test_what_another_input_left_undone_is_done(shards: Path) -> None:
    before = tree_bytes(shards / "out/data")
    killed_before_its_last_span(shards)
    save(shards / "elsewhere", b=40)
    assert run_here(shards / "elsewhere", shards / "out", "brightness", span_size=32) == 0
    assert tree_bytes(shards / "out/data").items() >= before.items()


def test_changed_images_on_s3_cost_no_request_for_others_and_few_for_the_plan(proxied: FaultProxy, weed: Weed) -> None:
    fs = weed.fs()
    for number in range(80):
        fs.pipe_file(f"inb/few/{number:02d}.png", png(number))
    assert run_here("s3://inb/few/", "s3://outb/few", "brightness", span_size=2) == 0
    for name in ("07", "41"):
        fs.pipe_file(f"inb/few/{name}.png", png(200))
    proxied.reset()
    assert run_here("s3://inb/few/", "s3://outb/few", "brightness", span_size=2) == 0
    asked = proxied.requests()
    images = {name for name in asked if name.startswith("GET inb/few/")}
    assert images == {f"GET inb/few/{name}.png" for name in ("07", "41")}
    # Its footer and its rows when the plan is learned, its rows for the change, and one read for each of two spans.
    assert asked["GET outb/few/plan/part-000000.parquet"] <= 5


def test_a_plan_that_lacks_its_first_parts_is_gone_on_with(loose: Path) -> None:
    """As --overwrite leaves it that was killed while it deleted the plan, where another command comes first."""
    for name in ("g", "h"):
        save(loose / "in", **{name: 40})
        run(loose)
    shutil.rmtree(loose / "out/data")
    (loose / "out/plan/part-000000.parquet").unlink()
    output = run(loose)
    assert len(rows(output)) == 5
    assert verify(Place.of(str(output))).green
    assert sorted(path.name for path in (output / "plan").iterdir()) == [f"part-00000{n}.parquet" for n in (1, 2, 3)]


def test_a_change_and_a_failed_row_in_one_span(loose: Path) -> None:
    (loose / "in/d.png").write_bytes(b"damaged")
    assert run_here(loose / "in", loose / "out", "brightness", max_failed=1) == 0
    (loose / "in/b.png").write_bytes(png(200))
    (loose / "in/d.png").write_bytes(b"damaged too")
    os.utime(loose / "in/d.png", ns=(0, 0))
    assert run_here(loose / "in", loose / "out", "brightness", max_failed=1) == 0
    save(loose / "in", b=11)
    assert run_here(loose / "in", loose / "out", "brightness", max_failed=1, retry_failed=True) == 0
    assert done(loose / "out") == 2


def test_an_image_that_changed_once_is_done_once(loose: Path) -> None:
    """And keeps its row when it is gone, whatever happens to the others of its span."""
    save(loose / "in", b=11)
    run(loose)
    (loose / "in/b.png").unlink()
    save(loose / "in", d=21)
    output = run(loose)
    assert done(output) == 1
    save(loose / "in", f=31)
    assert done(run(loose)) == 1
    table = rows(output)
    assert table["status"].to_pylist() == ["ok"] * 3
    fresh = run_here(loose / "in", loose / "fresh", "brightness")
    assert fresh == 0
    assert rows(loose / "fresh").equals(table[1:])
    assert verify(Place.of(str(output))).green


def run_overtaken(folder: Path, span: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that finds a span's file as another one has put it since it planned."""
    before = Reader._before

    def late(reader: Reader, row: LooseSpan) -> pa.Table | None:
        span.write_bytes(data)
        return before(reader, row)

    with monkeypatch.context() as patched:
        patched.setattr(Reader, "_before", late)
        run(folder)


def test_a_file_that_a_slow_run_has_put_back_is_done_anew(loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the plan of a run and its reading: what changed before, and was in the file, is in it no more."""
    (span,) = (loose / "out/data").iterdir()
    old = span.read_bytes()
    save(loose / "in", b=11)
    run(loose)
    save(loose / "in", d=21)
    run_overtaken(loose, span, old, monkeypatch)
    assert run_here(loose / "in", loose / "fresh", "brightness") == 0
    assert rows(loose / "out").equals(rows(loose / "fresh"))


def test_a_span_that_another_run_has_done_keeps_the_rows_of_what_is_gone(
    loose: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (span,) = (loose / "out/data").iterdir()
    old = span.read_bytes()
    save(loose / "in", b=11)
    (loose / "in/d.png").unlink()
    done_by_other = rows(run(loose))
    new = span.read_bytes()
    span.write_bytes(old)
    run_overtaken(loose, span, new, monkeypatch)
    assert rows(loose / "out").equals(done_by_other)
    assert set(done_by_other["status"].to_pylist()) == {"ok"}
