"""Every way to name images: folders, globs, lists, Parquet of three kinds, mixed; keys as odd as keys can be."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.source.format import FORMATS, format_of
from pipeline.source.kinds import Shard
from pipeline.source.naming import Sources, unbraced
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.source.test_archives import MAKERS
from tests.weed import Weed

ODD = ["a b.png", "ü/é 漢.png", "c#d.png", "100%25.png", "dt=2024-01-01/x+y.png", "q?.png", "st*r[1].png", "n&m~2.png"]
ENDINGS = frozenset({".png", ".jpg"})


def keys(output: Path) -> list[str]:
    return sorted(rows(output)["key"].to_pylist())


def found(*inputs: object) -> list[tuple[str, str]]:
    """Format (or "image") and name below the input of all that is found."""
    listing = Sources(tuple(map(str, inputs)), "auto", ENDINGS).listing()
    return [(s.format, s.entry.uri) if isinstance(s, Shard) else ("image", s.key) for s in listing]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shade, name in enumerate(ODD):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(shade))
    return tmp_path / "in"


def test_odd_names_arrive_verbatim(folder: Path, tmp_path: Path) -> None:
    assert run_here(folder, tmp_path / "out") == 0
    assert keys(tmp_path / "out") == sorted(ODD)
    assert sorted(rows(tmp_path / "out")["uri"].to_pylist()) == sorted(f"{folder}/{name}" for name in ODD)


@pytest.mark.usefixtures("s3_env")
def test_odd_keys_on_s3_arrive_verbatim(folder: Path, weed: Weed, tmp_path: Path) -> None:
    weed.put_tree(folder, "inb/odd")
    assert run_here("s3://inb/odd/", tmp_path / "out") == 0
    assert keys(tmp_path / "out") == sorted(ODD)
    assert set(rows(tmp_path / "out")["status"].to_pylist()) == {"ok"}
    assert f"s3://inb/odd/{ODD[0]}" in rows(tmp_path / "out")["uri"].to_pylist()


@pytest.mark.usefixtures("s3_env")
def test_a_whole_bucket_needs_no_slash(weed: Weed) -> None:
    weed.fs().mkdir("wholebucket")
    weed.fs().pipe_file("wholebucket/a/b.png", png(1))
    assert found("s3://wholebucket") == found("s3://wholebucket/") == [("image", "a/b.png")]


def test_single_files_globs_and_folders(folder: Path) -> None:
    make_tar(folder / "deep/er/s.tar", [("x.png", png(1))])
    (folder / "notes.txt").write_text("not a list here")
    (folder / ".hidden.png").write_bytes(png(1))
    assert ("tar", f"{folder}/deep/er/s.tar") in found(folder)
    assert len(found(folder)) == len(ODD) + 1
    assert found(folder / "c#d.png") == [("image", "c#d.png")]
    assert found(folder / "st*r[1].png") == [("image", "st*r[1].png")]  # a file of that name wins over the pattern
    assert found(f"{folder}/*.png") == [("image", name) for name in sorted(n for n in ODD if "/" not in n)]
    assert ("image", "ü/é 漢.png") in found(f"{folder}/**/*.png")
    assert found(f"{folder}/deep/*/s.t?r") == [("tar", f"{folder}/deep/er/s.tar")]
    sources = Sources((str(folder),), "auto", ENDINGS).listing()
    list(sources)
    assert sources.passed.others == {".txt": 1, "hidden": 1}


def test_brackets_stay_within_a_folder(tmp_path: Path) -> None:
    for name in ("a/b.png", "a-b.png", "axb.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(png(1))
    assert found(f"{tmp_path}/a[!x]b.png") == [("image", "a-b.png")]
    assert found(f"{tmp_path}/a[w-z]b.png") == [("image", "axb.png")]


def test_hidden_lists_are_passed_by(folder: Path) -> None:
    """A Mac leaves one beside every file that it copies."""
    (folder / "a.txt").write_text("c#d.png")
    (folder / "._a.txt").write_bytes(b"\0\5\x16\7")
    assert found(f"{folder}/*.txt") == [("image", "c#d.png")]


def test_a_link_to_nowhere_is_a_row_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    os.symlink("/nowhere", os.fsencode(tmp_path / "in") + b"/\xff.png")
    (tmp_path / "in/a.png").write_bytes(png(1))
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    assert dict(zip(*(table[name].to_pylist() for name in ("key", "error")), strict=True)) == {
        "a.png": None, "\\xff.png": "not found",
    }  # fmt: skip


def test_a_list_names_images_anywhere(folder: Path, tmp_path: Path) -> None:
    wanted = [str(folder / name) for name in ODD[:3]]
    (tmp_path / "list.txt").write_text("\n".join(["# chosen", *wanted, wanted[0], str(folder / "gone.png"), ""]))
    assert run_here(tmp_path / "list.txt", tmp_path / "out", max_failed=0.5) == 0
    table = rows(tmp_path / "out")
    assert dict(zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True)) == {
        **dict.fromkeys(wanted, "ok"), str(folder / "gone.png"): "fetch_error",
    }  # fmt: skip
    (tmp_path / "list.csv").write_text("id,uri\n" + "".join(f'{i},"{uri}"\n' for i, uri in enumerate(wanted)))
    assert [key for _, key in found(tmp_path / "list.csv")] == wanted


@pytest.mark.parametrize("kind", ["bytes", "struct", "uri"])
def test_parquet_holds_images_in_three_ways(kind: str, folder: Path, tmp_path: Path) -> None:
    contents = [png(1), None, b"broken", png(2)]
    paths = [str(folder / ODD[0]), None, str(folder / "gone.png"), str(folder / ODD[1])]
    columns = {
        "bytes": pa.array(contents, pa.binary()),
        "struct": pa.array([{"bytes": c, "path": None} for c in contents]),
        "uri": pa.array(paths, pa.string()),
    }
    name = "uri" if kind == "uri" else "image"
    table = pa.table({name: columns[kind], "label": pa.array([3, 1, 4, None], pa.int16())})
    (tmp_path / "p").mkdir()
    pq.write_table(table, tmp_path / "p/a.parquet", row_group_size=3)
    assert run_here(tmp_path / "p", tmp_path / "out", keep=("label",), max_failed=1, span_size=3) == 0
    result = rows(tmp_path / "out")
    assert result["uri"].to_pylist() == [f"{tmp_path}/p/a.parquet#{row}" for row in range(4)]
    numbers = ["0", "1", "2", "3"]
    assert result["key"].to_pylist() == ([path or "1" for path in paths] if kind == "uri" else numbers)
    broken = "fetch_error" if kind == "uri" else "decode_error"
    assert result["status"].to_pylist() == ["ok", "fetch_error", broken, "ok"]
    assert (result["label"].to_pylist(), result.schema.field("label").type) == ([3, 1, 4, None], pa.int16())


def test_parquet_brings_its_own_keys_and_says_which_columns_there_are(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    pq.write_table(pa.table({"pic": [png(1)], "other": [b"x"], "id": ["me"]}), tmp_path / "p/a.parquet")
    with pytest.raises(ConfigError, match="its columns: pic, other, id"):
        run_here(tmp_path / "p", tmp_path / "out")
    assert run_here(tmp_path / "p", tmp_path / "out2", image_column="pic") == 0
    assert keys(tmp_path / "out2") == ["me"]


def test_parquet_shards_that_disagree_on_a_kept_column_are_refused(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for name, type_ in (("a", pa.int32()), ("b", pa.string())):
        column = pa.array([None], type_)
        pq.write_table(pa.table({"image": [png(1)], "label": column}), tmp_path / f"p/{name}.parquet")
    with pytest.raises(ConfigError, match=r"b\.parquet has it as string, the first shard as int32"):
        run_here(tmp_path / "p", tmp_path / "out", keep=("label",))


def test_a_tar_member_may_be_chosen_as_the_image(tmp_path: Path) -> None:
    make_tar(tmp_path / "in/s.tar", [("1.png", png(1)), ("1.mask.png", png(2, (4, 4))), ("1.json", b'{"a": 1}')])
    assert run_here(tmp_path / "in", tmp_path / "out", keep=("json", "mask.png")) == 0
    row = rows(tmp_path / "out").to_pylist()[0]
    assert (row["width"], row["json"], row["mask.png"]) == (8, '{"a": 1}', png(2, (4, 4)))
    assert run_here(tmp_path / "in", tmp_path / "masks", image_column="mask.png") == 0
    assert rows(tmp_path / "masks")["width"].to_pylist() == [4]


def test_two_slashes_are_one(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(1))
    for given in (f"/{folder}", f"file://{folder}", f"file:///{folder}"):
        assert run_here(given, tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out")["uri"].to_pylist() == [f"{folder}/a.png"]


def test_inputs_that_overlap_give_each_image_once(folder: Path, tmp_path: Path) -> None:
    make_tar(folder / "s.tar", [("x.png", png(1))])
    assert run_here([folder, f"{folder}/*.png", folder / "s.tar"], tmp_path / "out") == 0
    assert len(keys(tmp_path / "out")) == len(ODD) + 1


def test_linked_folders_are_read_rings_are_not_and_a_link_to_nowhere_is_a_row(tmp_path: Path) -> None:
    for name in ("in", "elsewhere", "in/.cache"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(png(1))
    (tmp_path / "in/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in/ring").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone.png").symlink_to(tmp_path / "nowhere")
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=1) == 0
    table = rows(tmp_path / "out")
    found = dict(zip(table["key"].to_pylist(), table["status"].to_pylist(), strict=True))
    assert found == {"x.png": "ok", "linked/x.png": "ok", "gone.png": "fetch_error"}


def test_names_in_a_list_are_relative_to_the_list(folder: Path) -> None:
    (folder / "list.txt").write_text(f"{ODD[0]}\n")
    sources = Sources((str(folder / "list.txt"),), "auto", ENDINGS).listing()
    assert [source.entry.uri for source in sources] == [f"{folder}/{ODD[0]}"]


@pytest.mark.parametrize("given", ["in/**", "in/*/**", "{other,in}/", "link/**"])
def test_a_run_never_reads_its_own_result(given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").mkdir()
    for number in range(6):
        make_tar(tmp_path / f"in/{number}/s.tar", [("x.png", png(number))])
    (tmp_path / "link").symlink_to("in")
    for _ in range(3):
        assert run_here(tmp_path / given, tmp_path / "in/out", "brightness") == 0
    assert len(keys(tmp_path / "in/out")) == 6
    assert " x of this output" in capsys.readouterr().out


@pytest.mark.usefixtures("s3_env")
def test_nor_on_s3(weed: Weed) -> None:
    weed.fs().call_s3("put_object", Bucket="inb", Key="own/a.png", Body=png(1))
    for _ in range(2):
        assert run_here("s3://inb/own/**", "s3://inb/own/out", "brightness") == 0
    assert rows("inb/own/out", weed.fs())["uri"].to_pylist() == ["s3://inb/own/a.png"]


def test_braces_name_many_shards(tmp_path: Path) -> None:
    for number in range(12):
        make_tar(tmp_path / f"s-{number:03d}.tar", [("x.png", png(number))])
    names = [f"{tmp_path}/s-{number:03d}.tar" for number in range(9, 12)]
    assert found(f"{tmp_path}/s-{{009..011}}.tar") == [("tar", name) for name in names]
    assert found(f"{tmp_path}/s-0{{09,10,11}}.tar") == [("tar", name) for name in names]
    (tmp_path / "s-{1..2}.png").write_bytes(png(1))
    assert found(f"{tmp_path}/s-{{1..2}}.png") == [("image", "s-{1..2}.png")]  # a file of that name wins
    with pytest.raises(ConfigError, match=r"s-012\.tar does not exist"):
        found(f"{tmp_path}/s-{{009..012}}.tar")
    with pytest.raises(ConfigError, match="counts downwards"):
        found(f"{tmp_path}/s-{{012..009}}.tar")
    assert list(unbraced("{09..101}.tar"))[:2] == ["009.tar", "010.tar"]  # as a shell counts
    assert list(unbraced("{9..10}.tar")) == ["9.tar", "10.tar"]
    assert next(unbraced("{0..99999999999}.tar")) == "0.tar"


@pytest.mark.parametrize("kind", FORMATS)
def test_a_named_file_whose_name_tells_nothing_is_what_its_content_says(kind: str, tmp_path: Path) -> None:
    makers = {"tar": make_tar} | {format_of(name): make for name, make in MAKERS.items()}
    if kind == "parquet":
        pq.write_table(pa.table({"image": [png(1), png(2)]}), tmp_path / "noext")
    else:
        makers[kind](tmp_path / "noext", [("a.png", png(1)), ("b.png", png(2))])
    (tmp_path / "picture").write_bytes(png(3))
    os.link(tmp_path / "noext", tmp_path / "s.bin")
    assert found(f"{tmp_path}/noext", f"{tmp_path}/s.bin") == [
        (kind, f"{tmp_path}/{name}") for name in ("noext", "s.bin")
    ]
    assert found(f"{tmp_path}/picture") == [("image", "picture")]
    assert run_here(tmp_path / "noext", tmp_path / "out", "brightness") == 0
    assert len(rows(tmp_path / "out")) == 2


def test_a_named_file_is_what_input_format_says(tmp_path: Path) -> None:
    make_tar(tmp_path / "plain.bin", [("a.png", png(1)), ("b.png", png(2))])
    assert run_here(tmp_path / "plain.bin", tmp_path / "out", input_format="tar") == 0
    assert keys(tmp_path / "out") == ["a", "b"]
