"""Parquet whose columns nobody would have thought of: repeated, empty, and full of impossible dates."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from tests.flow import png, run_here
from tests.helpers import rows


def write(path: Path, names: list[str], *columns: pa.Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_arrays([pa.array([png(1), png(2)], pa.binary()), *columns], names), path)
    return path


TWICE = pa.array([1, 2]), pa.array([3, 4])
NULL = pa.nulls(2)


@pytest.mark.parametrize(("name", "flags"), [("image", {}), ("x", {"keep": ("x",)})])
def test_a_wanted_column_that_is_there_twice_is_refused(name: str, flags: dict[str, object], tmp_path: Path) -> None:
    more = [pa.array([png(3), png(4)], pa.binary()), pa.array([3, 4])] if name == "image" else TWICE
    source = write(tmp_path / "a.parquet", ["image", name, "image" if name == "image" else "x"][:3], *more)
    with pytest.raises(ConfigError, match=f"a.parquet: it has [23] columns called {name}: rename all but one$"):
        run_here(source, tmp_path / "out", "brightness", **flags)
    assert not (tmp_path / "out").exists()


def test_in_a_later_shard_it_costs_that_shard_alone(tmp_path: Path) -> None:
    write(tmp_path / "in/a.parquet", ["image", "x"], pa.array([1, 2]))
    write(tmp_path / "in/b.parquet", ["image", "x", "x"], *TWICE)
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", keep=("x",), max_failed=1.0) == 0
    assert rows(tmp_path / "out")["error"].to_pylist() == [None, None, "it has 2 columns called x: rename all but one"]


def test_keys_that_are_there_twice_are_none(tmp_path: Path) -> None:
    source = write(tmp_path / "a.parquet", ["image", "id", "id"], *TWICE)
    assert run_here(source, tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out")["key"].to_pylist() == ["0", "1"]


@pytest.mark.parametrize(
    ("ids", "first"),
    [
        (pa.array([1, 10**18]).cast(pa.timestamp("us")), "1970-01-01 00:00:00.000001"),
        (pa.array([1, 10**18]).cast(pa.timestamp("us", "Foo/Bar")), "1"),
        (pa.array([1, 10**7], pa.int32()).cast(pa.date32()), "1970-01-02"),
        (pa.array([1, 1 << 62]).cast(pa.duration("s")), "0:00:01"),
    ],
    ids=str,
)
def test_keys_that_python_cannot_tell_are_numbers(ids: pa.Array, first: str, tmp_path: Path) -> None:
    """Each for itself: another run may read other rows together."""
    source = write(tmp_path / "a.parquet", ["image", "id"], ids)
    assert run_here(source, tmp_path / "out", "brightness") == 0
    keys = rows(tmp_path / "out")["key"].to_pylist()
    assert keys == [first, str(ids.view(pa.int32() if ids.type == pa.date32() else pa.int64())[1])]


@pytest.mark.parametrize("first", [pa.array(["a", "b"]), pa.array(["a", "b"]).dictionary_encode()], ids=str)
def test_a_shard_whose_values_are_all_null_has_the_first_ones_type(first: pa.Array, tmp_path: Path) -> None:
    """Pandas writes such a column without a type."""
    write(tmp_path / "in/a.parquet", ["image", "cls"], first)
    write(tmp_path / "in/b.parquet", ["image", "cls"], NULL)
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", keep=("cls",)) == 0
    assert rows(tmp_path / "out")["cls"].to_pylist() == ["a", "b", None, None]
