"""A run from source to Parquet, again, with a gap, with growth: what a user sees in the output."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from tests.faults import FaultProxy
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows, tree_bytes
from tests.weed import Weed

MTIME = 1_700_000_000


def save(folder: Path, **images: bytes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / f"{name}.png").write_bytes(data)


def statuses(output: Path) -> dict[str, str]:
    table = rows(output)
    return dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("labelled") / "out"
    assert run_here(DIGITS / "shards", output, keep=("cls",)) == 0
    return output


def test_the_digits_get_the_labels_the_reference_gives(labelled: Path) -> None:
    table = rows(labelled)
    first = [labels[0] for labels in table["labels"].to_pylist()]
    assert sum(a == b for a, b in zip(first, table["cls"].to_pylist(), strict=True)) == 357
    names = ["uri", "key", "status", "error", "width", "height", "label_ids", "labels", "scores", "cls"]
    assert table.schema.names == names
    assert table["uri"][0].as_py() == f"{DIGITS}/shards/digits-00000.tar#0039.png"


def test_the_output_is_laid_out_as_promised(labelled: Path) -> None:
    assert {path.name for path in labelled.iterdir()} == {"_run.json", "plan", "data", "runs", "_SUCCESS"}
    run = json.loads((labelled / "_SUCCESS").read_text())["run"]
    report = json.loads((labelled / "runs" / f"{run}.json").read_text())
    assert report["audit"]["planned"] == report["audit"]["ok"] == 360
    assert report["audit"]["missing"] == report["audit"]["duplicates"] == 0


def test_the_same_command_again_does_nothing(labelled: Path) -> None:
    before = tree_bytes(labelled / "data")
    stamps = {path: path.stat().st_mtime_ns for path in (labelled / "data").iterdir()}
    assert run_here(DIGITS / "shards", labelled, keep=("cls",)) == 0
    assert tree_bytes(labelled / "data") == before
    assert {path: path.stat().st_mtime_ns for path in (labelled / "data").iterdir()} == stamps


def test_a_deleted_span_comes_back_byte_for_byte(labelled: Path) -> None:
    before = tree_bytes(labelled / "data")
    stamps = {path: path.stat().st_mtime_ns for path in (labelled / "data").iterdir()}
    gone = sorted((labelled / "data").iterdir())[4]
    gone.unlink()
    assert run_here(DIGITS / "shards", labelled, keep=("cls",)) == 0
    assert tree_bytes(labelled / "data") == before
    touched = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns != stamp]
    assert touched == [gone]


def test_other_settings_on_the_same_output_are_refused(labelled: Path) -> None:
    with pytest.raises(ConfigError, match="top_k = 5, this command has 3"):
        run_here(DIGITS / "shards", labelled, keep=("cls",), top_k=3)
    with pytest.raises(ConfigError, match="keep"):
        run_here(DIGITS / "shards", labelled)
    with pytest.raises(ConfigError, match="limit"):
        run_here(DIGITS / "shards", labelled, keep=("cls",), limit=10)


def test_bad_images_are_rows_and_good_ones_are_untouched(tmp_path: Path) -> None:
    save(tmp_path / "in", a=png(10), b=b"", c=b"not an image", d=png(20)[:45], e=png(30), f=png(0, (300, 300)))
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1.0, max_pixels=80_000) == 0
    found = statuses(tmp_path / "out")
    assert found == {
        "a.png": "ok", "b.png": "decode_error", "c.png": "decode_error", "d.png": "decode_error",
        "e.png": "ok", "f.png": "too_large",
    }  # fmt: skip
    table = rows(tmp_path / "out")
    assert table["error"].to_pylist()[1:3] == [
        "the file is empty",
        "not an image that Pillow knows (it begins with 6e6f7420616e2069)",
    ]
    assert [s is None for s in table["scores"].to_pylist()] == [False, True, True, True, False, True]
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=0.5) == 3
    assert (tmp_path / "out/_SUCCESS").exists()  # of the run before; this one had nothing to do


def test_failed_rows_alone_are_done_again(tmp_path: Path) -> None:
    save(tmp_path / "in", a=png(10), b=png(0, (300, 300)), c=png(30))
    assert run_here(tmp_path / "in", tmp_path / "out", max_pixels=80_000) == 3
    assert not (tmp_path / "out/_SUCCESS").exists()
    assert run_here(tmp_path / "in", tmp_path / "out", retry_failed=True) == 0
    assert set(statuses(tmp_path / "out").values()) == {"ok"}
    assert run_here(tmp_path / "in", tmp_path / "fresh") == 0
    assert rows(tmp_path / "out").equals(rows(tmp_path / "fresh"))


def test_new_and_changed_loose_images_are_done_and_no_others(tmp_path: Path) -> None:
    save(tmp_path / "in", b=png(10), d=png(20), f=png(30))
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    first = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/data").iterdir()}
    save(tmp_path / "in", a=png(40), c=png(50))  # sort before and between
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert len(list((tmp_path / "out/data").iterdir())) == 2
    save(tmp_path / "in", d=png(255))
    (tmp_path / "in/b.png").unlink()
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    report = json.loads(max((tmp_path / "out/runs").glob("*.json")).read_text())
    assert report["images"]["done"] == 1
    assert report["audit"]["planned"] == 5
    assert sorted(statuses(tmp_path / "out")) == ["a.png", "b.png", "c.png", "d.png", "f.png"]
    save(tmp_path / "clean", d=png(255))
    assert run_here(tmp_path / "clean", tmp_path / "again") == 0
    now = {k: s for k, s in zip(*(rows(tmp_path / "out")[n].to_pylist() for n in ("key", "scores")), strict=True)}
    assert now["d.png"] == pytest.approx(rows(tmp_path / "again")["scores"][0].as_py(), abs=1e-5)
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    assert json.loads(max((tmp_path / "out/runs").glob("*.json")).read_text())["images"]["done"] == 0


def test_an_output_may_be_called_like_its_own_files(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/a.tar", [("a.png", png(1)), ("b.png", png(2))])
    for name in ("shard-1", "part-000000.parquet", "shard-a.0-00000000-2.json"):
        assert run_here(tmp_path / "in", tmp_path / name / "plan") == 0, name
        assert run_here(tmp_path / "in", tmp_path / name / "plan") == 0, name


def test_one_changed_image_costs_one_look_at_each_plan_part(proxied: FaultProxy, weed: Weed) -> None:
    for number in range(80):
        weed.fs().pipe_file(f"inb/few/{number:02d}.png", png(number))
    assert run_here("s3://inb/few/", "s3://outb/few", span_size=2) == 0
    for name in ("07", "41"):
        weed.fs().pipe_file(f"inb/few/{name}.png", png(200))
    proxied.reset()
    assert run_here("s3://inb/few/", "s3://outb/few", span_size=2) == 0
    asked = proxied.requests()
    images = {name for name in asked if name.startswith("GET inb/few/")}
    assert images == {f"GET inb/few/{name}.png" for name in ("07", "41")}
    # Its footer and its rows when the plan is learned, its rows for the change, and one read for each of two spans.
    assert asked["GET outb/few/plan/part-000000.parquet"] <= 5


def test_shards_that_grow_change_or_shrink_are_written_again(tmp_path: Path) -> None:
    def shard(count: int, shade: int) -> None:
        make_tar(tmp_path / "in/s.tar", [(f"{i:03d}.png", png(shade + i)) for i in range(count)])

    shard(70, 0)
    make_tar(tmp_path / "in/other.tar", [("x.png", png(1))])
    assert run_here(tmp_path / "in", tmp_path / "out", span_size=32) == 0
    assert len(list((tmp_path / "out/data").iterdir())) == 4
    for count, shade in ((100, 0), (100, 50), (20, 50)):
        shard(count, shade)
        assert run_here(tmp_path / "in", tmp_path / "out") == 0
        fresh = tmp_path / f"fresh-{count}-{shade}"
        assert run_here(tmp_path / "in", fresh, span_size=32) == 0
        assert tree_bytes(tmp_path / "out/data") == tree_bytes(fresh / "data")
    (tmp_path / "in/s.tar").unlink()
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    assert len(rows(tmp_path / "out")) == 21  # rows of removed objects stay


def test_a_limit_takes_the_first_images_and_no_more(tmp_path: Path) -> None:
    for name in "ab":
        make_tar(tmp_path / f"in/{name}.tar", [(f"{name}{i:02d}.png", png(i)) for i in range(40)])
    assert run_here(tmp_path / "in", tmp_path / "out", limit=50, span_size=32) == 0
    keys = sorted(rows(tmp_path / "out")["key"].to_pylist())
    assert keys == [f"a{i:02d}" for i in range(40)] + [f"b{i:02d}" for i in range(10)]
    assert run_here(tmp_path / "in", tmp_path / "out", limit=50) == 0
    assert len(rows(tmp_path / "out")) == 50


def test_repeated_member_names_stay_apart_also_when_a_span_is_rebuilt(tmp_path: Path) -> None:
    members = [(name, png(i)) for i, name in enumerate(["a.png", "b.png", "a.png", "a.png~2", "a.png"])]
    make_tar(tmp_path / "in/s.tar", [*members[:3], ("a.cls", b"7"), *members[4:]])
    assert run_here(tmp_path / "in", tmp_path / "out", span_size=2) == 0
    names = [uri.split("#")[1] for uri in rows(tmp_path / "out")["uri"].to_pylist()]
    assert sorted(names) == ["a.png", "a.png~2", "a.png~3", "b.png"]
    before = tree_bytes(tmp_path / "out/data")
    sorted((tmp_path / "out/data").iterdir())[1].unlink()
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    assert tree_bytes(tmp_path / "out/data") == before


@pytest.mark.parametrize("where", ["middle of a member", "between members"])
def test_a_cut_tar_gives_its_images_and_a_row_that_says_so(tmp_path: Path, where: str) -> None:
    path = make_tar(tmp_path / "in/s.tar", [(f"{i}.png", png(i)) for i in range(10)])
    path.write_bytes(path.read_bytes()[: 1024 * 5 + (600 if where == "middle of a member" else 0)])
    assert run_here(tmp_path / "in", tmp_path / "out") == 3
    table = rows(tmp_path / "out")
    assert table["status"].to_pylist().count("ok") == 5
    assert "decode_error" in table["status"].to_pylist()
    assert table["uri"][0].as_py() == str(path)
    assert run_here(tmp_path / "in", tmp_path / "out") == 3


def test_tar_members_that_are_no_plain_files_are_rows_with_a_reason(tmp_path: Path) -> None:
    import tarfile

    (tmp_path / "in").mkdir()
    with tarfile.open(tmp_path / "in/s.tar", "w") as tar:
        link = tarfile.TarInfo("../../etc/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    make_tar(tmp_path / "in/t.tar", [("/abs/" + "long" * 60 + ".png", png(1)), ("no-image.txt", b"x")])
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    assert table["status"].to_pylist() == ["decode_error", "ok"]
    assert "a link" in table["error"][0].as_py()


def test_files_open_alike_whatever_happened_to_their_images(tmp_path: Path) -> None:
    save(tmp_path / "in", a=b"", b=b"")
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    assert run_here(DIGITS / "shards", tmp_path / "good", limit=3) == 0
    schemas = [pq.read_schema(next((tmp_path / name / "data").iterdir())) for name in ("out", "good")]
    assert schemas[0].remove_metadata() == schemas[1].remove_metadata()
