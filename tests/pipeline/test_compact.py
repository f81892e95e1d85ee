"""Copies in few large files: continued, brought up to date, with pictures; nothing in them is lost or twice."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import Compacted, compact, state_of_copy
from pipeline.copies import survey, writer
from pipeline.errors import ConfigError
from pipeline.forget import Forget, forget
from tests.flow import make_tar, png, run_here
from tests.helpers import rows, run_job
from tests.outputs import Examples
from tests.weed import Weed

FLAGS: dict[str, Any] = {"task": "brightness", "span_size": 4, "batch_size": 4}


def run_on(source: object, output: object, **more: Any) -> None:
    assert run_here(source, output, **FLAGS, **more) == 0


def pack(output: object, dest: object, most: int = 12, **more: Any) -> Compacted:
    return compact(str(output), str(dest), most, **more)


def copied(dest: Path) -> pa.Table:
    """All rows of a copy, as its readers take them."""
    return pq.read_table(dest).replace_schema_metadata(None).sort_by("uri")


def seen(dest: Path) -> dict[str, int]:
    """Files and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(dest.glob("*.parquet"))}


def sizes(dest: Path) -> list[int]:
    return [pq.read_metadata(path).num_rows for path in sorted(dest.glob("*.parquet"))]


def add(source: Path, name: str, count: int = 4, first: int = 0) -> None:
    make_tar(
        source / f"{name}.tar", [(f"{number:04d}.png", png(number % 256)) for number in range(first, first + count)]
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    add(tmp_path / "in", "a", 11)
    add(tmp_path / "in", "b", 15)
    return tmp_path / "in"


@pytest.fixture
def output(source: Path, tmp_path: Path) -> Path:
    run_on(source, tmp_path / "out")
    return tmp_path / "out"


def test_the_same_command_again_writes_nothing(output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"
    assert pack(output, dest) == (26, 3, 3, 0)
    assert sizes(dest) in ([11, 12, 3], [12, 11, 3])  # whole spans
    assert copied(dest).equals(rows(output))
    before = seen(dest)
    assert pack(output, dest) == (26, 3, 0, 0)
    assert seen(dest) == before
    done = run_job("compact.py", output, dest, "--rows-per-file", 12, code=0)
    assert done.stdout == f"26 rows in 3 files, 0 of them written now: {dest}\n"


@pytest.mark.parametrize(
    ("most", "counts"),
    [(1, [1] * 26), (3, [1] * 5 + [3] * 7), (4, [3] * 2 + [4] * 5), (7, [4, 4, 4, 7, 7]), (1000, [26])],
)
def test_spans_are_cut_only_where_they_do_not_fit(output: Path, tmp_path: Path, most: int, counts: list[int]) -> None:
    pack(output, tmp_path / "big", most)
    assert sorted(sizes(tmp_path / "big")) == counts
    assert copied(tmp_path / "big").equals(rows(output))
    assert pack(output, tmp_path / "big", most).written == 0


def test_what_is_new_goes_into_new_files(source: Path, output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"
    pack(output, dest)
    before = seen(dest)
    add(source, "aa", 5)  # its name sorts between the others
    run_on(source, output)
    assert state_of_copy(str(dest)) == (
        f"{dest} is a copy of {output}, older: files were written since; the same jobs/compact.py brings it up to date",
        False,
    )
    assert pack(output, dest) == (31, 4, 1, 0)
    assert {name: when for name, when in seen(dest).items() if name in before} == before
    assert copied(dest).equals(rows(output))
    assert state_of_copy(str(dest)) == (f"{dest} is a copy of {output}, as new as that", True)


def test_what_has_changed_is_replaced_in_its_file_alone(source: Path, output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"
    pack(output, dest)
    before = seen(dest)
    others = [
        name for name in before if not any("a.tar" in uri for uri in pq.read_table(dest / name)["uri"].to_pylist())
    ]
    add(source, "a", 9, first=100)  # fewer images: its last span is shorter
    run_on(source, output)
    pack(output, dest)
    assert copied(dest).equals(rows(output))
    assert seen(dest).keys() == before.keys()
    assert [name for name, when in seen(dest).items() if before[name] == when] == others
    assert others


def test_rows_that_are_forgotten_vanish(source: Path, output: Path, tmp_path: Path) -> None:
    dest, named = tmp_path / "big", tmp_path / "named.txt"
    pack(output, dest, 4)
    gone = [f"{source}/a.tar#{number:04d}.png" for number in (0, 4, 5, 6, 7)]
    named.write_text("\n".join(gone))
    assert forget(Forget(str(output), str(named))) == 0
    said, is_new = state_of_copy(str(dest)) or ("", True)
    assert (is_new, "5 images were forgotten since" in said) == (False, True)
    pack(output, dest, 4)
    assert copied(dest).equals(rows(output))
    assert not set(gone) & set(copied(dest)["uri"].to_pylist())
    assert pack(output, dest, 4).written == 0


def test_an_output_begun_anew_replaces_all(source: Path, output: Path, tmp_path: Path) -> None:
    pack(output, tmp_path / "big")
    run_on(source, output, overwrite=True, keep=())
    assert pack(output, tmp_path / "big").rows == 26
    assert copied(tmp_path / "big").equals(rows(output))


def test_many_small_files_are_merged(source: Path, output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"
    pack(output, dest, 26)
    first = seen(dest)
    for night in range(survey.SMALL - 1):
        add(source, f"n{night}")
        run_on(source, output)
        pack(output, dest, 26)
    assert sizes(dest) == [26, *[4] * (survey.SMALL - 1)]
    add(source, "z")
    run_on(source, output)
    assert pack(output, dest, 26).rows == 26 + 4 * survey.SMALL
    assert sizes(dest) == [26, 24, 8]
    assert seen(dest).items() >= first.items()
    assert copied(dest).equals(rows(output))
    assert pack(output, dest, 26).written == 0


def test_fewer_rows_in_a_file_than_before(output: Path, tmp_path: Path) -> None:
    pack(output, tmp_path / "big", 20)
    pack(output, tmp_path / "big", 7)
    assert max(sizes(tmp_path / "big")) == 7
    assert copied(tmp_path / "big").equals(rows(output))


def test_files_and_row_groups_are_bounded(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dest = tmp_path / "big"
    with monkeypatch.context() as small:
        small.setattr(writer, "GROUP_ROWS", 6)
        pack(output, dest, 20)
    assert groups(dest) == [[6, 6, 6, 1], [6, 1]]
    with monkeypatch.context() as small:
        small.setattr(writer, "GROUP_BYTES", rows(output).slice(0, 8).nbytes)
        small.setattr(writer, "FILE_BYTES", 1)
        pack(output, tmp_path / "other", 20)
    assert max(max(counts) for counts in groups(tmp_path / "other")) <= 10
    assert {len(counts) for counts in groups(tmp_path / "other")} == {1}
    assert copied(tmp_path / "other").equals(rows(output))
    assert pack(output, tmp_path / "other", 20).written == 0


def groups(dest: Path) -> list[list[int]]:
    """Rows of each row group of each file."""
    about = [pq.read_metadata(path) for path in sorted(dest.glob("*.parquet"))]
    return [[one.row_group(number).num_rows for number in range(one.num_row_groups)] for one in about]


def test_damage_and_strange_files_are_named(output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"
    pack(output, dest)
    (dest / "README.md").write_text("a card")
    assert pack(output, dest).written == 0
    pq.write_table(pa.table({"x": [1]}), dest / "mine.parquet")
    with pytest.raises(ConfigError, match=r"mine.parquet is no file of this copy, or damaged: move it"):
        pack(output, dest)
    (dest / "mine.parquet").unlink()
    for cut in (b"PAR1", b"PAR1\xff\xff\x02\0\0\0PAR1"):  # the second has a footer, which means nothing
        (dest / "part-00001.parquet").write_bytes(cut)
        with pytest.raises(ConfigError, match=r"part-00001.parquet is no file of this copy, or damaged: move it"):
            pack(output, dest)
    for name in ("part-00001.parquet", "README.md"):
        (dest / name).unlink()
    assert pack(output, dest).written == 1
    assert copied(dest).equals(rows(output))


def test_what_cannot_work_is_refused(output: Path, tmp_path: Path) -> None:
    dest = tmp_path / "big"

    def refused(match: str, *args: object, **more: Any) -> None:
        with pytest.raises(ConfigError, match=match):
            pack(*args, **more)
        assert not dest.exists()

    refused("--rows-per-file 0: give a number above 0", output, dest, 0)
    refused("is no output of these jobs: it has no _run.json", tmp_path / "none", dest)
    refused("big lies inside .*/out: choose a folder of its own", output, output / "big")
    refused("out lies inside ", output, output)
    refused(f"{output} lies inside {tmp_path}", output, tmp_path)
    (tmp_path / "link").symlink_to(output)
    refused("link/big lies inside", output, tmp_path / "link/big")
    (tmp_path / "file").write_text("x")
    refused("file is a file: give a folder", output, tmp_path / "file")
    refused("http:// cannot create a file only where there is none", output, "http://127.0.0.1:1/x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("x")
    refused(r"full is not empty \(.*/full/notes.txt\): choose a folder of its own", output, tmp_path / "full")
    pack(output, tmp_path / "plain")
    refused("plain has no pictures: leave out --images, or choose another", output, tmp_path / "plain", images=True)
    run_on(tmp_path / "in", tmp_path / "out2")
    refused(f"plain is a copy of {output}: choose another folder", tmp_path / "out2", tmp_path / "plain")
    refused("big lies in another output, .*/out2: choose a folder", output, tmp_path / "out2/data/big")


@pytest.mark.usefixtures("s3_env")
def test_two_at_once_in_a_bucket(source: Path, weed: Weed) -> None:
    output, dest = "s3://outb/compacted", "s3://outb/copy"
    run_on(source, output)
    for night in range(3):
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: pack(output, dest, 4), range(2)))
        found = weed.fs().glob("outb/copy/*.parquet")
        copy = pa.concat_tables([pq.read_table(pa.BufferReader(weed.fs().cat_file(name))) for name in found])
        wanted = rows("outb/compacted", weed.fs())
        assert copy.replace_schema_metadata(None).sort_by("uri").equals(wanted), night
        assert pack(output, dest, 4).written == 0
        add(source, "b", 15 + night, first=50 * night)  # changed, and longer
        add(source, f"n{night}", 6)
        run_on(source, output)
    with pytest.raises(ConfigError, match=r"^s3://nowhere/copy: "):
        pack(output, "s3://nowhere/copy")
    with pytest.raises(ConfigError, match="s3://outb/compacted/data lies inside s3://outb/compacted"):
        pack(output, "s3://outb/compacted/data")


def test_pictures_go_along(source: Path, tmp_path: Path) -> None:
    output, dest = tmp_path / "out", tmp_path / "big"
    make_tar(source / "c.tar", [("x.png", png(1)), ("x.png", png(2)), ("y.png", png(3)[:40]), ("x.png", png(4))])
    cells = [{"bytes": png(5), "path": "p.png"}, {"bytes": None, "path": None}, {"bytes": png(6), "path": None}]
    pq.write_table(pa.table({"image": cells}), source / "d.parquet")
    for number in range(6):
        (source / f"loose#{number}.png").write_bytes(png(10 + number))
    run_on(source, output, max_failed=0.5)
    (source / "loose#3.png").unlink()
    (source / "b.tar").unlink()
    done = pack(output, dest, images=True)
    assert (done.rows, done.lost) == (26 + 4 + 3 + 6, 1 + 15)
    pictures = {row["uri"]: row for row in pq.read_table(dest).to_pylist()}
    assert pictures[f"{source}/a.tar#0003.png"]["image"] == {"bytes": png(3), "path": "0003.png"}
    assert pictures[f"{source}/loose#2.png"]["image"] == {"bytes": png(12), "path": "loose#2.png"}
    assert pictures[f"{source}/c.tar#x.png~3"]["image"]["bytes"] == png(4)
    assert pictures[f"{source}/d.parquet#2"]["image"]["bytes"] == png(6)
    for none in ("c.tar#y.png", "d.parquet#1", "loose#3.png", "b.tar#0000.png"):
        assert pictures[f"{source}/{none}"]["image"] is None
    assert pack(output, dest, images=True) == (39, done.files, 0, 16)
    assert copied(dest).drop_columns("image").equals(rows(output))
    with pytest.raises(ConfigError, match=r"big has the pictures: give --images, or choose another folder"):
        pack(output, dest)
    add(source, "a", 8, first=40)  # the rows speak of what was there; these names are of other pictures now
    said = run_job("compact.py", output, tmp_path / "late", "--rows-per-file", 50, "--images", code=0).stdout
    assert "pictures that could not be read any more, and are null: 27\n" in said


def test_datasets_shows_pictures_and_masks(examples: Examples, tmp_path: Path) -> None:
    output, dest = examples.copy("segment", tmp_path / "out"), tmp_path / "big"
    done = pack(output, dest, 50, images=True)
    assert done[:2] == (61, 2)
    for found in (
        datasets.load_dataset("parquet", data_files=f"{dest}/*.parquet", split="train", cache_dir=str(tmp_path / "hf")),
        datasets.load_dataset(str(dest), split="train", cache_dir=str(tmp_path / "hf")),
    ):
        assert isinstance(found.features["image"], datasets.Image)
        assert isinstance(found.features["mask"], datasets.Image)
        for row in found:
            if row["status"] == "ok":
                assert row["mask"].size == row["image"].size == (row["width"], row["height"])
            else:
                assert row["mask"] is row["image"] is None
    masks = dict(zip(rows(output)["uri"].to_pylist(), rows(output)["mask"].to_pylist(), strict=True))
    assert {row["uri"]: row["mask"] and row["mask"]["bytes"] for row in pq.read_table(dest).to_pylist()} == masks
