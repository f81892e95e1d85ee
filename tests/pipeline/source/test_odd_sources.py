"""Keys as people name them, and Parquet as it comes: one row each, uris verbatim."""

import cProfile
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import RunConfig
from pipeline.look import look
from pipeline.output.place import Place
from tests.flow import make_tar, png, run_here
from tests.helpers import ROOT, rows
from tests.pipeline.source.test_archives import make_tar_gz, make_zip
from tests.pipeline.test_refusals import refused
from tests.weed import Weed

ODD = [
    "with space.png", "ünïcødé 雪.png", "hash#1.png", "100%.png", "%20.png", "a=b.png", "a+b.png", "what?.png",
    "star*.png", "[1].png", "q&a;b.png", "quote'\".png", "back\\slash.png", "deep/er/~x.png", "a:b@c.png",
    "dt=2024-01-01/x.png", "line\ntwo.png",
]  # fmt: skip
# weed itself cannot hold these as keys.
NOT_ON_S3 = {"line\ntwo.png", "back\\slash.png"}


def test_odd_names_on_a_local_disk(tmp_path: Path) -> None:
    for number, name in enumerate(ODD):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    make_tar(tmp_path / "in/shard #1 ?*.tar", [(f"tar/{name}", png(9)) for name in ODD])
    assert run_here(tmp_path / "in", tmp_path / "out") == 0
    uris = set(rows(tmp_path / "out")["uri"].to_pylist())
    shard = f"{tmp_path}/in/shard #1 ?*.tar"
    assert uris == {f"{tmp_path}/in/{name}" for name in ODD} | {f"{shard}#tar/{name}" for name in ODD}
    assert run_here(tmp_path / "in", tmp_path / "out") == 0


@pytest.mark.usefixtures("proxied")
def test_odd_keys_on_s3(weed: Weed) -> None:
    names = [name for name in ODD if name not in NOT_ON_S3]
    for number, name in enumerate(names):
        weed.fs().call_s3("put_object", Bucket="inb", Key=f"odd keys/{name}", Body=png(number))
    assert run_here("s3://inb/odd keys/", "s3://outb/odd out#%+") == 0
    table = rows("outb/odd out#%+", weed.fs())
    assert set(table["uri"].to_pylist()) == {f"s3://inb/odd keys/{name}" for name in names}
    assert set(table["status"].to_pylist()) == {"ok"}
    assert run_here("s3://inb/odd keys/", "s3://outb/odd out#%+") == 0


def test_a_folder_whose_name_looks_like_a_glob_is_that_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run [1] *?"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    assert run_here(folder, tmp_path / "out") == 0
    assert rows(tmp_path / "out")["uri"].to_pylist() == [f"{folder}/a.png"]


def test_names_that_are_not_utf8_cost_no_other_image(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/good.png").write_bytes(png(1))
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/caf\xe9.png")).write_bytes(png(2))
    make_tar(tmp_path / "in/s.tar", [(os.fsdecode(b"caf\xe9.png"), png(3)), ("good.png", png(4))])
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    found = {
        uri.rsplit("/", 1)[1]: s for uri, s in zip(*(table[n].to_pylist() for n in ("uri", "status")), strict=True)
    }
    assert found == {"good.png": "ok", r"caf\xe9.png": "ok", "s.tar#good.png": "ok", r"s.tar#caf\xe9.png": "ok"}


def test_a_folder_whose_own_name_is_not_utf8(tmp_path: Path) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/in\xff")
    os.makedirs(f"{folder}/x")
    Path(f"{folder}/x/a.png").write_bytes(png(1))
    for given in (folder, f"{folder}/*/a.png"):
        assert run_here(given, tmp_path / "out", "brightness") == 0
    found = rows(tmp_path / "out").to_pylist()
    assert [(row["uri"], row["key"]) for row in found] == [(f"{tmp_path}/in\\xff/x/a.png", "x/a.png")]


def test_parquet_in_every_shape(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (tmp_path / "x.png").write_bytes(png(1))
    pq.write_table(pa.table({"id": ["p", None, "r"], "image": [png(1), None, b"junk"]}), folder / "bytes.parquet")
    struct = [{"bytes": png(2), "path": "x"}, {"bytes": None, "path": None}, None,
              {"bytes": None, "path": str(tmp_path / "x.png")}]  # fmt: skip
    pq.write_table(pa.table({"image": struct, "label": [1, 2, 3, 4]}), folder / "deep/hf.parquet")
    uris = [str(tmp_path / "x.png"), None, "/nowhere.png", "s p a c e"]
    pq.write_table(pa.table({"url": uris}), folder / "uris.parquet")
    (folder / "broken.parquet").write_bytes(b"PAR1 this is none PAR1")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), folder / "empty.parquet")
    assert run_here(folder, tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    names = [uri.removeprefix(f"{folder}/") for uri in table["uri"].to_pylist()]
    assert dict(zip(names, table["status"].to_pylist(), strict=True)) == {
        "broken.parquet": "decode_error",
        "bytes.parquet#0": "ok", "bytes.parquet#1": "fetch_error", "bytes.parquet#2": "decode_error",
        "deep/hf.parquet#0": "ok", "deep/hf.parquet#1": "fetch_error", "deep/hf.parquet#2": "fetch_error",
        "deep/hf.parquet#3": "ok",
        "uris.parquet#0": "ok", "uris.parquet#1": "fetch_error", "uris.parquet#2": "fetch_error",
        "uris.parquet#3": "fetch_error",
    }  # fmt: skip
    keys = dict(zip(names, table["key"].to_pylist(), strict=True))
    assert [keys[f"bytes.parquet#{row}"] for row in range(3)] == ["p", "1", "r"]


@pytest.mark.parametrize(
    "of", [lambda type_: pa.dictionary(pa.int8(), type_), lambda type_: f"{type_}_view"], ids=["categorical", "view"]
)
@pytest.mark.parametrize("values", [["a.png", "a.png"], [png(1), png(2)]], ids=["uris", "bytes"])
def test_categoricals_and_views_are_columns_of_images(
    tmp_path: Path, values: list[object], of: Callable[[pa.DataType], object]
) -> None:
    (tmp_path / "a.png").write_bytes(png(1))
    plain = pa.array(values)
    pq.write_table(pa.table({"image": plain.cast(of(plain.type))}), tmp_path / "p.parquet")
    assert run_here(tmp_path / "p.parquet", tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out")["status"].to_pylist() == ["ok", "ok"]


def test_a_path_without_bytes_is_named_as_in_a_column_of_uris(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures/a.png").write_bytes(png(1))
    names = ["pictures/a.png", "gone.png", f"{tmp_path}/pictures/a.png", "", None]
    struct = pa.array(
        [{"bytes": None, "path": name} for name in names], pa.struct({"bytes": pa.binary(), "path": pa.string()})
    )
    pq.write_table(pa.table({"image": struct, "url": names}), tmp_path / "p.parquet")
    errors = {}
    for column in ("image", "url"):
        output = tmp_path / f"{column}-out"
        assert run_here(tmp_path / "p.parquet", output, "brightness", image_column=column, max_failed=1.0) == 0
        errors[column] = rows(output)["error"].to_pylist()
    assert errors["image"][:3] == errors["url"][:3] == [None, f"{tmp_path}/gone.png: not found", None]
    assert errors["image"][3:] == ["the row has no image bytes"] * 2


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1, 2, None], pa.time64("ns")),
        pa.array([1 << 62, None, -1], pa.timestamp("us", "UTC")),
        pa.array([[1], None, [2, None]], pa.list_(pa.duration("ns"))),
        pa.array([{"at": 1, "more": [b"x"]}, None, {"at": 2, "more": None}],
                 pa.struct({"at": pa.timestamp("ns"), "more": pa.list_(pa.binary())})),
        pa.array(["a", None, "b"]).cast(pa.dictionary(pa.int8(), pa.string())),
        pa.array([[1.5, 2.5], None, [0.0, 1.0]], pa.list_(pa.float32(), 2)),
    ],
    ids=lambda column: str(column.type)[:12],
)  # fmt: skip
def test_kept_values_stay_as_they_are(tmp_path: Path, column: pa.Array) -> None:
    table = pa.table({"image": [png(1), b"junk", png(2)], "kept": column})
    pq.write_table(table, tmp_path / "p.parquet")
    assert run_here(tmp_path / "p.parquet", tmp_path / "out", "brightness", keep=("kept",), max_failed=1.0) == 0
    found = rows(tmp_path / "out")["kept"].combine_chunks()
    wide = pa.dictionary(pa.int32(), pa.string()) if pa.types.is_dictionary(column.type) else column.type
    assert found.type == wide
    assert found.equals(column.cast(wide))


def test_keys_of_bytes_are_text(tmp_path: Path) -> None:
    keys = ["k1", "ü", r"caf\xe9", "3"]
    pq.write_table(
        pa.table({"key": [b"k1", "ü".encode(), b"caf\xe9", None], "image": [png(1)] * 4}), tmp_path / "k.parquet"
    )
    assert run_here(tmp_path / "k.parquet", tmp_path / "out", "brightness", image_column="image") == 0
    assert rows(tmp_path / "out")["key"].to_pylist() == keys


MEASURE = """
import sys
from pipeline import storage
from pipeline.source.format import FORMATS
from pipeline.source.item import Position, Wanted

def peak():  # not getrusage: a child's begins with its parent's
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) >> 10

entry, before = storage.stat(sys.argv[1]), peak()
items = FORMATS["parquet"].items(entry, Wanted(frozenset()), Position())
rows = sum(len(item.data) == 1 << 18 for item in items)
print(rows, peak() - before)
"""


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    """All images of a file are in one by default."""
    table = pa.table({"image": [bytes([row]) * (1 << 18) for row in range(256)] * 8, "key": list(range(2048))})
    pq.write_table(table, tmp_path / "a.parquet", compression="none", use_dictionary=False, write_batch_size=32)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 1
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.parquet")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    rows_read, megabytes = map(int, done.stdout.split())
    assert rows_read == 2048
    assert megabytes < 250


@pytest.mark.parametrize("values", [pa.array([1, 2]), pa.array([[1.0], [2.0]])])
def test_parquet_without_an_image_column_is_refused(tmp_path: Path, values: pa.Array) -> None:
    from pipeline.errors import ConfigError

    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": values}), tmp_path / "in/a.parquet")
    with pytest.raises(ConfigError, match="no image column found"):
        run_here(tmp_path / "in", tmp_path / "out")


def test_lists_with_repeats_and_gaps(tmp_path: Path) -> None:
    for name in ("a b.png", "c.png"):
        (tmp_path / name).write_bytes(png(1))
    listed = [tmp_path / "a b.png", "# a comment", "", tmp_path / "c.png", tmp_path / "a b.png", tmp_path / "gone.png"]
    (tmp_path / "list.txt").write_text("\n".join(map(str, listed)))
    (tmp_path / "list.csv").write_text(f'label,uri\n1,"{tmp_path / "c.png"}"\n2,\n')
    assert run_here([tmp_path / "list.txt", tmp_path / "list.csv"], tmp_path / "out", max_failed=0.5) == 0
    table = rows(tmp_path / "out")
    assert table["uri"].to_pylist() == sorted(f"{tmp_path}/{name}" for name in ("a b.png", "c.png", "gone.png"))
    assert table["error"].to_pylist() == [None, None, "not found"]


@pytest.mark.parametrize("name", ["e.tar", "e.tar.gz", "e.zip", "e.parquet"])
def test_a_shard_with_nothing_in_it_is_no_input_by_itself(name: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    if name == "e.parquet":
        pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / name)
    else:
        {"e.tar": make_tar, "e.tar.gz": make_tar_gz, "e.zip": make_zip}[name](tmp_path / name, [])
    refused(f"{name} has no (files in it|rows)$", tmp_path / name, output)
    make_tar(tmp_path / "z.tar", [("a.png", png(1))])
    many = [
        shutil.copy(tmp_path / name, tmp_path / f"{number}{name}") for number in range(10)
    ]  # more than are looked into
    assert run_here([*many, tmp_path / "z.tar"], output, "brightness") == 0
    assert len(rows(output)) == 1


def test_names_without_an_ending_are_no_images(tmp_path: Path) -> None:
    named = [(f"photo{number}", png(number)) for number in range(3)]
    source = make_tar(tmp_path / "a.tar", named)
    refused("no image among the 3 files of .*a.tar, whose names have no endings$", source, tmp_path / "out")
    make_tar(source, [*(named * 400), ("z.png", png(9))])
    assert run_here(source, tmp_path / "out", "brightness") == 0
    assert len(rows(tmp_path / "out")) == 1


def test_bytes_and_paths_may_take_turns(tmp_path: Path) -> None:
    """As in a data set of which some images are embedded; they are fetched side by side all the same."""
    for number in range(0, 40, 2):
        (tmp_path / f"{number}.png").write_bytes(png(number))
    cells = [
        {"bytes": None, "path": f"{n}.png"} if n % 2 == 0 else {"bytes": png(n) if n % 3 else None, "path": None}
        for n in range(40)
    ]
    pq.write_table(pa.table({"image": cells}), tmp_path / "a.parquet")
    assert run_here(tmp_path / "a.parquet", tmp_path / "out", "brightness", max_failed=1.0) == 0
    failed = {int(row["key"]): row["status"] == "fetch_error" for row in rows(tmp_path / "out").to_pylist()}
    assert failed == {n: n % 2 == 1 and n % 3 == 0 for n in range(40)}


def test_an_output_is_no_input_and_its_rows_are(tmp_path: Path) -> None:
    """Its plan would name every image once more, and forgotten ones."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(png(255))
    first, output = tmp_path / "first", tmp_path / "out"
    assert run_here(tmp_path / "in", first, "brightness") == 0
    refused("^--input .*/first/ is an output of these jobs: .* data/$", [tmp_path / "in", f"{first}/"], output)
    assert run_here(first / "data", output, "brightness") == 0
    assert rows(output)["key"].to_pylist() == ["a.png"]


def test_a_first_look_costs_by_the_input(tmp_path: Path) -> None:
    """And not by pairs of inputs: a shell makes thousands of one pattern."""

    def calls(files: int) -> int:
        images = [tmp_path / f"{n}.png" for n in range(files)]
        for image in images:
            image.write_bytes(png(1))
        config = RunConfig(input=tuple(map(str, images)), output=str(tmp_path / "out"), model="-")
        profile = cProfile.Profile()
        profile.runcall(look, config, Place.of(config.output))
        return sum(entry.callcount for entry in profile.getstats())

    calls(1)  # plugins are loaded
    assert calls(400) < 5 * calls(100)
