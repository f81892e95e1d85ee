"""Kept columns have one type in all files of an output, whatever comes later, and values do not depend on the order."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.compact import compact
from pipeline.errors import ConfigError
from pipeline.forget import Forget, forget
from tests.flow import make_tar, png, run_here
from tests.helpers import rows


def parquet(path: Path, cls: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": [png(n) for n in range(len(cls))], "cls": cls}), path)
    return path


@pytest.mark.parametrize("later", [pa.array([1.0, None]), pa.array(["a", "b"]), pa.array([1, 2], pa.int32())])
def test_a_later_run_keeps_the_types_that_are_there(later: pa.Array, tmp_path: Path) -> None:
    first = parquet(tmp_path / "one/a.parquet", pa.array([1, 2]))
    assert run_here(first, tmp_path / "out", "brightness", keep=("cls",)) == 0
    second = parquet(tmp_path / "two/b.parquet", later)
    with pytest.raises(ConfigError, match=f"--keep cls: .*b.parquet has it as {later.type}, the first shard as int64"):
        run_here(second, tmp_path / "out", "brightness", keep=("cls",))
    assert (tmp_path / "out/_SUCCESS").exists()
    assert rows(tmp_path / "out")["cls"].to_pylist() == [1, 2]


def test_types_of_every_kind_are_the_same_in_the_next_run(tmp_path: Path) -> None:
    kinds = [pa.array([["a"], None]), pa.array(["a", "b"]).dictionary_encode(), pa.array([{"x": 1}, {"x": 2}])]
    for number, cls in enumerate(kinds):
        output = tmp_path / f"out{number}"
        for name in ("a", "b"):
            source = parquet(tmp_path / f"in{number}/{name}.parquet", cls)
            assert run_here(source.parent, output, "brightness", keep=("cls",)) == 0
        assert len(rows(output)) == 4


def words(count: int, first: int, type_: pa.DataType) -> pa.Array:
    """A categorical of so many words that no other number of words has."""
    return pa.array([f"w{number}" for number in range(first, first + count)]).cast(pa.dictionary(type_, pa.string()))


def test_a_categorical_may_have_more_words_than_one_shards_numbers_can_tell(tmp_path: Path) -> None:
    """Pandas takes bytes for up to 128 of them."""
    many = words(200, 1000, pa.int16())
    for name, column in (("a", words(100, 0, pa.int8())), ("b", words(100, 100, pa.int8())), ("c", many)):
        parquet(tmp_path / f"in/{name}.parquet", column)
    flags: dict[str, Any] = {"keep": ("cls",), "span_size": 400, "batch_size": 32}
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", **flags) == 0
    kept = [f"w{number}" for number in [*range(200), *range(1000, 1200)]]
    assert sorted(rows(tmp_path / "out")["cls"].to_pylist()) == sorted(kept)
    compact(str(tmp_path / "out"), str(tmp_path / "copy"), rows_per_file=1000)
    (copy,) = (tmp_path / "copy").rglob("*.parquet")
    assert sorted(pq.read_table(copy)["cls"].to_pylist()) == sorted(kept)
    with pq.ParquetWriter(tmp_path / "one.parquet", pa.schema({"image": pa.binary(), "cls": many.type})) as writer:
        for first in (0, 100):
            writer.write_table(pa.table({"image": [png(1)] * 100, "cls": words(100, first, pa.int16())}))
    assert run_here(tmp_path / "one.parquet", tmp_path / "one", "brightness", **flags) == 0


def test_a_categorical_in_lists_or_structs_may_have_more_words_than_its_numbers_can_tell(tmp_path: Path) -> None:
    """Where shards meet in one span, and where a copy puts their spans into one file."""
    for name, first in (("a", 0), ("b", 100)):
        column = words(100, first, pa.int8())
        parquet(tmp_path / f"struct/{name}.parquet", pa.StructArray.from_arrays([column], ["word"]))
        parquet(tmp_path / f"list/{name}.parquet", pa.FixedSizeListArray.from_arrays(column, 1))
    for kind in ("struct", "list"):
        assert run_here(tmp_path / kind, tmp_path / f"{kind}-out", "brightness", keep=("cls",), span_size=400) == 0
        compact(str(tmp_path / f"{kind}-out"), str(tmp_path / f"{kind}-copy"), rows_per_file=1000)
        kept = pq.read_table(tmp_path / f"{kind}-copy")["cls"].to_pylist()
        found = [one["word"] if kind == "struct" else one[0] for one in kept]
        assert sorted(found) == sorted(f"w{number}" for number in range(200))


VIEWS = {
    "text": (pa.string_view(), ["a", None, "b"]),
    "bytes": (pa.binary_view(), [b"a", None, b"b"]),
    "list": (pa.list_view(pa.string_view()), [["a"], None, []]),
    "large list": (pa.large_list(pa.binary_view()), [[b"a"], None, []]),
    "three": (pa.list_(pa.string_view(), 1), [["a"], None, ["b"]]),
    "struct": (pa.struct([("x", pa.string_view())]), [{"x": "a"}, None, {"x": None}]),
    "map": (pa.map_(pa.string_view(), pa.string_view()), [[("a", "b")], None, []]),
}


@pytest.mark.parametrize("kind", VIEWS)
def test_values_in_views_are_kept_failed_done_again_and_forgotten(kind: str, tmp_path: Path) -> None:
    """As other writers than pyarrow have them, which can neither take nor filter them."""
    type_, values = VIEWS[kind]
    images = pa.array([png(1), b"damaged", png(2)])
    kept = pa.array(values, type_)
    pq.write_table(pa.table({"image": images, "cls": kept}), tmp_path / "a.parquet")
    assert pq.read_schema(tmp_path / "a.parquet").field("cls").type == type_
    for retry_failed in (False, True):
        flags = {"keep": ("cls",), "max_failed": 1.0, "retry_failed": retry_failed}
        assert run_here(tmp_path / "a.parquet", tmp_path / "out", "brightness", **flags) == 0
        assert rows(tmp_path / "out")["cls"].to_pylist() == values
    (tmp_path / "uris").write_text(f"{tmp_path}/a.parquet#1\n")
    assert forget(Forget(str(tmp_path / "out"), str(tmp_path / "uris"))) == 0
    assert rows(tmp_path / "out")["cls"].to_pylist() == [values[0], values[2]]


def test_a_kept_column_that_is_called_as_a_tasks_own(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a.parquet", pa.array([1, 2]))
    table = pq.read_table(source)
    pq.write_table(table.rename_columns(["image", "labels"]), source)
    assert run_here(source, tmp_path / "out", "brightness", keep=("labels",)) == 0
    assert rows(tmp_path / "out")["labels"].to_pylist() == [1, 2]


@pytest.mark.parametrize("first", ["a", "z"])
def test_a_tar_and_a_parquet_file_of_other_types(first: str, tmp_path: Path) -> None:
    make_tar(tmp_path / "in/m.tar", [("0.png", png(1)), ("0.cls", b"7")])
    parquet(tmp_path / f"in/{first}.parquet", pa.array([1, 2]))
    with pytest.raises(ConfigError, match=r"--keep cls: .*make them equal"):
        run_here(tmp_path / "in", tmp_path / "out", "brightness", keep=("cls",))


def test_an_output_that_keeps_columns_takes_loose_images_too(tmp_path: Path) -> None:
    make_tar(tmp_path / "shards/m.tar", [("0.png", png(1)), ("0.cls", b"7")])
    assert run_here(tmp_path / "shards", tmp_path / "out", "brightness", keep=("cls",)) == 0
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose/1.png").write_bytes(png(2))
    assert run_here(tmp_path / "loose", tmp_path / "out", "brightness", keep=("cls",)) == 0
    assert rows(tmp_path / "out")["cls"].to_pylist() == [None, "7"]


@pytest.mark.parametrize("order", [("images", "l.csv"), ("l.csv", "images")])
def test_values_of_a_list_count_wherever_else_its_images_are_named(order: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / f"images/{number}.png").write_bytes(png(number))
    (tmp_path / "l.csv").write_text("uri,cls\n" + "".join(f"images/{n}.png,c{n}\n" for n in range(2)))
    sources = [tmp_path / name for name in order]
    assert run_here(sources, tmp_path / "out", "brightness", keep=("cls",)) == 0
    assert rows(tmp_path / "out")["cls"].to_pylist() == ["c0", "c1", None]


def test_an_output_within_another(tmp_path: Path) -> None:
    source = parquet(tmp_path / "in/a.parquet", pa.array([1]))
    assert run_here(source, tmp_path / "o", "brightness") == 0
    for inner in ("o/sub", "o/data/sub"):
        with pytest.raises(ConfigError, match=r"lies in another output, .*/o: choose"):
            run_here(source, tmp_path / inner, "brightness")
    assert run_here(source, tmp_path / "x/y", "brightness") == 0
    (tmp_path / "x/y").rename(tmp_path / "o/y")
    with pytest.raises(ConfigError, match=r"--overwrite: another output, .*/o/y, lies in"):
        run_here(source, tmp_path / "o", "brightness", overwrite=True)
    assert len(rows(tmp_path / "o/y")) == 1


@pytest.mark.parametrize("where", ["local", "s3"])
def test_an_output_within_a_copy(where: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    source = parquet(tmp_path / "in/a.parquet", pa.array([1]))
    home = str(tmp_path)
    if where == "s3":
        request.getfixturevalue("s3_env")
        home = "s3://outb/within"
    output, dest = f"{home}/o", f"{home}/copy"
    assert run_here(source, output, "brightness") == 0
    compact(output, dest, 10)
    for inner in ("label", "label/v2"):
        with pytest.raises(ConfigError, match=f"--output .* lies in a copy of {output}, {dest}: choose a place"):
            run_here(source, f"{dest}/{inner}", "brightness")
    with pytest.raises(ConfigError, match=f"small lies in a copy of {output}, {dest}: choose a folder of its own"):
        compact(output, f"{dest}/small", 10)


def test_a_copy_around_an_output_asks_for_another_folder(tmp_path: Path) -> None:
    """Its files must not be removed."""
    source = parquet(tmp_path / "in/a.parquet", pa.array([1]))
    assert run_here(source, tmp_path / "o", "brightness") == 0
    compact(str(tmp_path / "o"), str(tmp_path / "copy"), 10)
    (tmp_path / "o").rename(tmp_path / "copy/inner")
    assert run_here(source, tmp_path / "o", "brightness") == 0
    with pytest.raises(ConfigError, match=r"an output, .*/copy/inner, lies in this copy: choose another folder for"):
        compact(str(tmp_path / "o"), str(tmp_path / "copy"), 10)
