"""Lists with columns: header, delimiter and images are found, named by a flag, or refused; other columns are kept."""

import csv
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.source.item import Wanted
from pipeline.source.lists import ListLine, read_list
from pipeline.source.passed import PassedBy
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.test_refusals import refused

ENDINGS = {".png", ".jpg"}


def read(text: str, ending: str = ".csv", column: str | None = None, keep: tuple[str, ...] = ()) -> list[ListLine]:
    wanted = Wanted(frozenset(), column, keep)
    return list(read_list(iter(text.splitlines(keepends=True)), ending, wanted, ENDINGS, PassedBy()))


@pytest.mark.parametrize(
    ("text", "ending"),
    [
        ("id,image_url,cls\n1,a.png,3\n2,b.png,4\n", ".csv"),
        ("path;cls\na.png;3\nb.png;4\n", ".csv"),
        ("path\tcls\na.png\t3\nb.png\t4\n", ".csv"),
        ("path,cls\na.png,3\nb.png,4\n", ".tsv"),
        ("cls|Image URL\n3|a.png\n4|b.png\n", ".csv"),
        ("cls,imgPath\n3,a.png\n4,b.png\n", ".csv"),
        ("where,cls\na.png,3\nb.png,4\n", ".csv"),  # only one column names images
        ("photo\na.png\nb.png\n", ".csv"),
        ("a.png,3\nb.png,4\n", ".csv"),  # no header
        ("3;a.png\n4;b.png\n", ".csv"),
        ("a.png\nb.png\n", ".csv"),
        ("a.png,photo\nb.png,drawing\n", ".csv"),  # no header, though columns are called so
        ("\n\npath,cls\na.png,3\n,9\n\nb.png,4\n", ".csv"),
        ('url,text\na.png,"one, two"\nb.png,"three\nlines"\n', ".csv"),
    ],
)
def test_header_delimiter_and_column_are_found(text: str, ending: str) -> None:
    assert [one.name for one in read(text, ending)] == ["a.png", "b.png"]


def test_long_tables_are_read_to_their_end() -> None:
    text = "cls;url\n" + "".join(f'{n};"{n}.png"\n' for n in range(1000))
    assert [one.name for one in read(text)] == [f"{n}.png" for n in range(1000)]


@pytest.mark.parametrize("first", ['"{}",a.png\n', 'a.png,"{}"\n', 'text,url\n"{}",a.png\n', 'a.png,"5"" of {}"\n'])
def test_the_first_row_may_be_longer_than_what_is_looked_at(first: str) -> None:
    row = first.format("a line, and another\n" * 30)
    for following in ("", row.replace("a.png", "b.png").removeprefix("text,url\n") * 2):
        names = [one.name for one in read(row + following)]
        assert names == ["a.png", *(["b.png"] * 2 if following else [])]


def test_a_quote_that_is_none_ends_nothing() -> None:
    text = "".join(f'{n}.png,{n}" wide\n' for n in range(25))
    assert [one.name for one in read(text)] == [f"{n}.png" for n in range(25)]


def test_names_without_an_ending_are_images_where_there_is_one_column() -> None:
    assert [one.name for one in read("001\n002\n")] == ["001", "002"]
    assert read("") == []


def test_names_of_a_plain_list_are_verbatim_and_its_comments_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [" a.png", "b.png ", "#1.png", "\tc.png", "~d.png"]
    for name in names:
        (tmp_path / name).write_bytes(png(1))
    (tmp_path / "list.txt").write_bytes(
        b"\xef\xbb\xbf a.png\r\nb.png \n# chosen\n \t\n\n./#1.png\n#1.png\n\tc.png\n~d.png"
    )
    assert run_here(tmp_path / "list.txt", tmp_path / "out", "brightness") == 0
    assert rows(tmp_path / "out")["uri"].to_pylist() == sorted(str(tmp_path / name) for name in names)
    assert "not images, passed by: 2 x comment\n" in capsys.readouterr().out


def test_rows_without_an_image_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(png(255))
    (tmp_path / "list.csv").write_text("cls,path\n1,a.png\n2,\n3\n\n")
    assert run_here(tmp_path / "list.csv", tmp_path / "out", "brightness") == 0
    assert "not images, passed by: 2 x row without an image\n" in capsys.readouterr().out


def test_the_flag_names_the_column_and_others_are_kept() -> None:
    text = "path;mask;cls\na.png;m.png;3\nb.png;n.png\n"
    assert read(text, column="mask", keep=("cls", "path")) == [
        ListLine("m.png", '{"cls": "3", "path": "a.png"}'),
        ListLine("n.png", '{"path": "b.png"}'),
    ]


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("id,cls\n1,3\n2,4\n", {}, "--image-column says which; its columns: id, cls"),
        ("left,right\na.png,b.png\n", {}, "--image-column says which; its columns: left, right"),
        ("a.png,b.png\nc.png,d.png\n", {}, "a header and --image-column say which; its columns: a.png, b.png"),
        ("path,cls\na.png,3\n", {"column": "url"}, "--image-column url: no such column; its columns: path, cls"),
        ("path,cls\na.png,3\n", {"keep": ("label",)}, "--keep label: no such column; its columns: path, cls"),
        ("a.png,3\n", {"keep": ("cls",)}, "--keep cls: the list has no header"),
    ],
)
def test_what_cannot_be_told_apart_is_an_error(text: str, flags: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(text, **flags)  # type: ignore[arg-type]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for shade in range(3):
        (tmp_path / f"{shade}.png").write_bytes(png(shade))
    (tmp_path / "list.csv").write_text("id;image_url;cls\n" + "".join(f"7{n};{n}.png;c{n}\n" for n in range(3)))
    return tmp_path / "list.csv"


def test_columns_of_a_list_go_along(table: Path, tmp_path: Path) -> None:
    assert run_here(table, tmp_path / "out", keep=("cls", "id"), span_size=2) == 0
    found = rows(tmp_path / "out")
    assert found["uri"].to_pylist() == [str(tmp_path / f"{n}.png") for n in range(3)]
    assert (found["cls"].to_pylist(), found["id"].to_pylist()) == (["c0", "c1", "c2"], ["70", "71", "72"])
    (tmp_path / "1.png").write_bytes(png(9, (4, 4)))  # a changed image keeps what the list said of it
    next((tmp_path / "out/data").glob("*.parquet")).unlink()
    assert run_here(table, tmp_path / "out", keep=("cls", "id"), span_size=2) == 0
    again = rows(tmp_path / "out")
    assert again["cls"].to_pylist() == ["c0", "c1", "c2"]
    assert again["width"].to_pylist() == [8, 4, 8]


def test_a_list_beside_shards(table: Path, tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "s.tar", [("x.png", png(5)), ("x.cls", b"tar")])
    assert run_here([shard, table], tmp_path / "out", keep=("cls",)) == 0
    assert sorted(rows(tmp_path / "out")["cls"].to_pylist()) == ["c0", "c1", "c2", "tar"]
    pq.write_table(pa.table({"image": [png(1)], "cls": [3]}), tmp_path / "p.parquet")
    with pytest.raises(ConfigError, match="--keep cls: a list has it as string, the first shard as int64"):
        run_here([tmp_path / "p.parquet", table], tmp_path / "other", keep=("cls",))


def test_columns_behind_more_loose_images_than_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(1001):
        (tmp_path / f"in/{number}.png").write_bytes(png(1))
    (tmp_path / "list.csv").write_text("image,cls\nin/0.png,3\n")
    why = "--keep cls: the first 1,000 images are loose ones, .*: name tars, Parquet files and .csv lists before them"
    refused(why, [tmp_path / "in", tmp_path / "list.csv"], tmp_path / "out", keep=("cls",))
    assert run_here([tmp_path / "list.csv", tmp_path / "in"], tmp_path / "out", keep=("cls",), limit=2) == 0
    assert sorted(rows(tmp_path / "out")["cls"].to_pylist(), key=str) == ["3", None]


def test_shards_in_a_list_are_read(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", [("x.png", png(5)), ("y.png", png(6))])
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "p.parquet")
    (tmp_path / "a.png").write_bytes(png(1))
    (tmp_path / "list.txt").write_text("gone.zip\ns.tar\na.png\np.parquet\ns.tar\n")
    for _ in range(2):
        assert run_here(tmp_path / "list.txt", tmp_path / "out", "brightness", max_failed=1.0) == 0
    found = {Path(row["uri"]).name: (row["status"], row["error"]) for row in rows(tmp_path / "out").to_pylist()}
    good = dict.fromkeys(["s.tar#x.png", "s.tar#y.png", "a.png", "p.parquet#0"], ("ok", None))
    assert found == {**good, "gone.zip": ("fetch_error", "the zip cannot be read on: not found")}


def test_columns_of_a_list_do_not_go_along_with_a_shard(tmp_path: Path) -> None:
    make_tar(tmp_path / "s.tar", [("x.png", png(5)), ("x.cls", b"3")])
    (tmp_path / "list.csv").write_text("path,cls\ns.tar,7\n")
    with pytest.raises(ConfigError, match=r"list\.csv: --keep: .*s\.tar is a shard, .* name it in a \.txt list"):
        run_here(tmp_path / "list.csv", tmp_path / "out", "brightness", keep=("cls",))
    (tmp_path / "list.txt").write_text("s.tar\n")
    assert run_here(tmp_path / "list.txt", tmp_path / "out", "brightness", keep=("cls",)) == 0
    assert rows(tmp_path / "out")["cls"].to_pylist() == ["3"]


def test_a_list_without_the_column_is_refused_before_anything_is_written(table: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list\.csv: --keep label: no such column; its columns: id, image_url, cls"):
        run_here(table, tmp_path / "out", keep=("label",))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["image_uri", "image_url", "imageUrl", "img", "photo", "picture_path", "file_name"])
def test_parquet_columns_of_uris_are_found_and_are_the_key(name: str, table: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a", "b"], name: ["0.png", None]}), tmp_path / "p.parquet")
    assert run_here(tmp_path / "p.parquet", tmp_path / "out", max_failed=1.0) == 0
    assert rows(tmp_path / "out")["key"].to_pylist() == [str(table.parent / "0.png"), "1"]


def test_a_listed_parquet_file_that_is_not_there_is_a_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [png(1)]}), tmp_path / "there.parquet")
    (tmp_path / "list.txt").write_text("away.parquet\nthere.parquet\n")
    assert run_here(tmp_path / "list.txt", tmp_path / "out", max_failed=1) == 0
    assert rows(tmp_path / "out")["error"].to_pylist() == ["not found", None]
    refused("--input .*/away.parquet: No such file or directory", tmp_path / "list.txt", tmp_path / "kept", keep=("n",))


def test_a_quote_that_nothing_closes_is_refused(tmp_path: Path) -> None:
    """All lines behind it would be one name."""
    lines = ["path", *(f"{n}.png" for n in range(5)), '"odd.png', *(f"{n}.png" for n in range(200))]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    said = r"l.csv: it is no table of UTF-8 text \(row 7 has 201 lines and a quote that nothing closes"
    refused(said, tmp_path / "l.csv", tmp_path / "out")


def test_long_cells_are_read() -> None:
    assert [one.name for one in read(f'path,caption\na.png,"{"y" * 200_000}"\n')] == ["a.png"]


def test_quotes_that_are_closed_may_stand_anywhere() -> None:
    text = 'caption,path\n"Hello" she said,0.png\na 5" disk,1.png\n"two\nlines",2.png\n'
    assert [line.name for line in read(text)] == ["0.png", "1.png", "2.png"]
    assert [line.name for line in read('path,caption,more\n0.png,5" pipe,"two\nlines"\n')] == ["0.png"]
    with pytest.raises(csv.Error, match="row 2 has 4 lines"):
        read('path,caption\n1.png,"unclosed\n2.png,b\n3.png,c\n4.png,"also unclosed\n5.png,d\n')
