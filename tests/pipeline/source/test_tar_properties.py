"""Any tar, cut anywhere or damaged: a prefix of its images and a reason, never an exception; resume gives the same."""

import io
import random
import tarfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Names, Position, Wanted
from pipeline.source.tar import usual_file
from pipeline.storage import Entry

WANTED = Wanted(frozenset({"png", "jpg"}), keep=("txt",))
QUICK = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
STEMS = st.sampled_from(["a", "b/a", "/abs/a", "../../a", "ü" * 60, "long/" * 40 + "a", "a b#%=+?*", "x" * 120])
ENDINGS = st.sampled_from(["png", "jpg", "txt", "png", "mask.png", "PNG", "json"])
KINDS = st.sampled_from([tarfile.REGTYPE] * 8 + [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
LISTED = st.lists(st.tuples(STEMS, ENDINGS, KINDS, st.binary(max_size=1300)), max_size=12)
FORMS = st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])


def pack(listed: list[tuple[str, str, bytes, bytes]], form: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form) as tar:
        for stem, ending, kind, data in listed:
            info = tarfile.TarInfo(f"{stem}.{ending}")
            info.type, info.linkname = kind, "/etc/passwd" if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE) else ""
            info.size = len(data) if kind == tarfile.REGTYPE else 0
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def read(path: Path, data: bytes, offset: int = 0, skip: int = 0, names: Names | None = None) -> list[Item]:
    path.write_bytes(data)
    at = Position(offset, skip, names or Names())
    return list(FORMATS["tar"].items(Entry(str(path), len(data), "v"), WANTED, at))


def told(items: list[Item]) -> list[tuple[str, str, str]]:
    return [(item.uri, item.key, repr(item.data)) for item in items]


@QUICK
@given(LISTED, FORMS)
def test_every_image_member_has_its_row_and_its_own_uri(tmp_path: Path, listed: list, form: int) -> None:
    items = read(tmp_path / "s.tar", pack(listed, form))
    wanted = [data for _, end, kind, data in listed if end.lower() in ("png", "jpg") and kind != tarfile.DIRTYPE]
    assert len(items) == len(wanted)
    assert len({item.uri for item in items}) == len(items)
    assert all(item.data == data or isinstance(item.data, ValueError) for item, data in zip(items, wanted, strict=True))


@QUICK
@given(LISTED, FORMS, st.data())
def test_a_cut_gives_a_prefix_and_a_reason(tmp_path: Path, listed: list, form: int, data: st.DataObject) -> None:
    whole = pack(listed, form)
    cut = data.draw(st.integers(0, len(whole)))
    before, after = told(read(tmp_path / "s.tar", whole)), read(tmp_path / "s.tar", whole[:cut])
    good = [line for line, item in zip(told(after), after, strict=True) if isinstance(item.data, bytes)]
    with tarfile.open(fileobj=io.BytesIO(whole)) as tar:
        there = [m for m in tar if m.isreg() and WANTED.is_image(m.name.rpartition("/")[2].partition(".")[2])]
    assert len(good) == sum(member.offset_data + member.size <= cut for member in there)
    assert all(line in before for line in good)
    assert good == [line for line in before if line in good]
    last = after[-1] if after else None
    assert len(after) >= len(before) or (last is not None and isinstance(last.data, Exception))


@QUICK
@given(LISTED, FORMS, st.integers(0, 1 << 30))
def test_a_damaged_tar_ends_with_rows_and_never_with_an_exception(
    tmp_path: Path, listed: list, form: int, seed: int
) -> None:
    chance, raw = random.Random(seed), bytearray(pack(listed, form))
    heads = [at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"]
    for head in chance.sample(heads, min(2, len(heads))):
        sizes = [b"\x80\0\0\0" + chance.randbytes(8), b"\xff" * 8 + chance.randbytes(4), b"77777777777\0", b" " * 12]
        kind = chance.choice([raw[head + 156 : head + 157], b"L", b"x", b"g", b"S", b"5", chance.randbytes(1)])
        raw[head + 124 : head + 136], raw[head + 156 : head + 157] = chance.choice(sizes), kind
        raw[head + chance.randrange(100)] = chance.randrange(256)
        raw[head + 148 : head + 156] = b" " * 8
        raw[head + 148 : head + 156] = b"%06o\0 " % sum(raw[head : head + 512])
    for item in read(tmp_path / "s.tar", bytes(raw)):
        (item.uri + item.key).encode()  # a column of strings takes it
        assert isinstance(item.data, bytes | Exception)


@QUICK
@given(LISTED, FORMS)
def test_reading_on_from_any_image_gives_the_rest(tmp_path: Path, listed: list, form: int) -> None:
    raw = pack(listed, form)
    items = read(tmp_path / "s.tar", raw)
    for place, item in enumerate(items):
        names = Names()
        names.used.update(before.uri.split("#", 1)[1] for before in items[:place])
        assert told(read(tmp_path / "s.tar", raw, item.offset, item.skip, names)) == told(items[place:])


@QUICK
@given(LISTED, st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]), st.integers(0, 511))
def test_a_usual_header_says_what_tarfile_reads(listed: list, form: int, changed: int) -> None:
    short = [(stem[:40], *rest) for stem, *rest in listed]  # USTAR has no room for the longest names
    raw = pack(short, form)
    for head in (at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"):
        block = bytearray(raw[head : head + 512])
        assert usual_file(bytes(block)) in (None, by_tarfile(block))
        block[changed] ^= 1
        assert usual_file(bytes(block)) in (None, by_tarfile(block))


def test_plain_files_have_usual_headers() -> None:
    raw = pack([("a", "jpg", tarfile.REGTYPE, b"x")], tarfile.USTAR_FORMAT)
    assert usual_file(raw[:512]) == ("a.jpg", 1)


def by_tarfile(block: bytearray) -> tuple[str, int] | None:
    try:
        header = tarfile.TarInfo.frombuf(bytes(block), "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return None
    name = header.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return (name, header.size) if header.isreg() else None
