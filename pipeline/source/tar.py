"""WebDataset tars, also several concatenated into one file. A position is the byte of a sample's first header."""

from __future__ import annotations

import functools
import io
import itertools
import re
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import BinaryIO, Self, cast

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ObjectUnreadable
from pipeline.source import samples
from pipeline.source.item import LARGEST, Item, Position, Wanted
from pipeline.source.samples import Member
from pipeline.storage import Entry
from pipeline.storage.ranged import Meter, Ranges

LARGEST_NAME = 1 << 20  # bytes of a long name or PAX header; more is damage, and would be read into memory whole
READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
BLOCK = 512
NAME, MAGIC, GNU = slice(100), slice(257, 265), b"ustar  \0"  # GNU: of a header in its own format
ADLER = 65521  # the modulus of Adler's checksum
SUM = slice(148, 156)  # of a header: the sum of its bytes, taken with spaces in this place
USUAL_FILE = re.compile(
    rb"(?P<name>.{100}).{24}(?P<size>[0-7]{11})[\0 ].{12}(?P<sum>[0-7]{6})[\0 ]{2}0.{188}(?P<prefix>.{155}).{12}",
    re.DOTALL,
)
BUFFER = 1 << 18  # bytes per request where single members are picked
Opening = Callable[[], AbstractContextManager[BinaryIO]]


class Tar:
    """Plain tars."""

    endings: tuple[str, ...] = (".tar",)
    mark: tuple[int, tuple[bytes, ...]] = (257, (b"ustar",))
    names_repeat = True
    counts_bytes = True

    def check(self, shard: Entry, wanted: Wanted) -> dict[str, pa.DataType]:
        """As in `ShardFormat`; damage further on does not refuse the whole input."""

        def there() -> Iterator[Member]:
            with self.open(shard) as file:
                yield from itertools.chain.from_iterable(archives(file, 0))

        return samples.check_members(there(), shard, wanted, (tarfile.TarError, OSError, ValueError, ObjectUnreadable))

    def items(self, shard: Entry, wanted: Wanted, at: Position) -> Iterator[Item]:
        """As in `ShardFormat`."""
        return read(functools.partial(self.open, shard), shard, wanted, at)

    def end(self, shard: Entry, images: int) -> int:  # noqa: ARG002 - other formats count images
        """The size of the file."""
        return shard.size

    def pick(self, shard: Entry, wanted: Wanted, names: set[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
        """As in `ShardFormat`: one pass that reads headers and these members only."""
        yield from pick_from(io.BufferedReader(Ranges(shard, meter), BUFFER), wanted, names)

    def open(self, shard: Entry) -> AbstractContextManager[BinaryIO]:
        """The bytes of the archive."""
        return storage.open_stream(shard, pinned=True)


def read(opening: Opening, shard: Entry, wanted: Wanted, at: Position) -> Iterator[Item]:
    """The images of an opened tar; one that cannot be read on ends with an item for the tar itself."""

    def images() -> Iterator[Item]:
        with opening() as stream:
            for archive in archives(stream, at.offset):
                yield from samples.samples(archive, wanted, at.passed, _damage)

    return samples.until_failure(images(), shard, at, "tar", _damage)


def _damage(error: Exception) -> str | None:
    if isinstance(error, tarfile.TarError):
        return str(error)
    # tarfile seeks and reads by whatever numbers a damaged header holds.
    return "a header holds an impossible number" if isinstance(error, ValueError | OverflowError) else None


def pick_from(stream: BinaryIO, wanted: Wanted, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """The images of these names in an opened tar."""
    return samples.pick(itertools.chain.from_iterable(archives(stream, 0)), wanted, Position(), names)


class Header(tarfile.TarInfo):
    """A header whose size is checked: tarfile would read names and PAX records of any stated size."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        """As tarfile reads it, but for GNU's own format, which has times where others have a prefix of the name."""
        found = super().frombuf(buf, encoding, errors)
        if buf[MAGIC] == GNU and found.type not in tarfile.GNU_TYPES:
            name = buf[NAME].partition(b"\0")[0].decode(encoding, errors)
            found.name = name.rstrip("/") if found.isdir() else name
        return found

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.size > LARGEST_NAME and self.type in READ_WHOLE):
            raise tarfile.ReadError("a header holds an impossible number")
        try:
            checked: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # to be overridden, yet untyped
        except RecursionError:
            raise tarfile.ReadError("hundreds of headers belong to one member") from None
        return checked


def usual_file(header: bytes) -> tuple[str, int] | None:
    """Name and size, as tarfile reads them, where a header is a plain file's and needs no other; None for the rest."""
    fields = USUAL_FILE.fullmatch(header)
    if fields is None or _sum(header) != (int(fields["sum"], 8) + 1) % ADLER:
        return None
    name, prefix = fields["name"].partition(b"\0")[0], fields["prefix"].partition(b"\0")[0]
    prefix = b"" if header[MAGIC] == GNU else prefix
    return _text(prefix + b"/" + name if prefix else name), int(fields["size"], 8)


def _sum(header: bytes) -> int:
    """1 + the sum of its bytes, modulo ADLER, which zlib has in a tenth of the time that Python's `sum` takes."""
    return zlib.adler32(header[: SUM.start] + b" " * 8 + header[SUM.stop :]) & 0xFFFF


def archives(stream: BinaryIO, offset: int) -> Iterator[Iterator[Member]]:
    """The members of every archive from a byte on: there is more than one where tars were concatenated."""
    following: int | None = offset
    while following is not None:
        stream.seek(following)
        if following and not stream.read(1):
            return  # the position behind the last image
        stream.seek(following)
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=Header, encoding="utf-8", errors="surrogateescape") as tar:
            yield _members(tar)
            end: int = tar.offset
        following = _next_archive(stream, end)


def _members(tar: tarfile.TarFile) -> Iterator[Member]:
    """The members, most of them without tarfile, which takes several times as long for a header."""
    while (member := tar.next()) is not None:
        # tarfile keeps every header for ever, and a shard may hold millions.
        tar.members.clear()  # type: ignore[attr-defined]
        if not member.isdir():
            name = _text(member.name.encode("utf-8", "surrogateescape"))
            yield Member(name, member.offset, functools.partial(_content, tar, member))
        if not tar.pax_headers:  # else records of the archive hold for all that follows
            yield from _usual_members(tar)


def _usual_members(tar: tarfile.TarFile) -> Iterator[Member]:
    """Those up to the next that only tarfile can read."""
    stream = _stream(tar)
    while True:
        stream.seek(tar.offset)
        header = stream.read(BLOCK)
        usual = usual_file(header)
        if usual is None:
            # Tarfile looks whether the bytes before a header are there only where the stream does not stand at it.
            stream.seek(tar.offset if header else tar.offset - 1)
            return
        offset, (name, size) = tar.offset, usual
        tar.offset += BLOCK * (1 + -(-size // BLOCK))
        yield Member(name, offset, functools.partial(_file, stream, offset + BLOCK, size))


def _next_archive(stream: BinaryIO, end: int) -> int | None:
    """Where another archive begins behind the end mark, None at the file's end; raises where there is no end mark."""
    stream.seek(end)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise tarfile.ReadError(f"it ends at byte {stream.seek(0, io.SEEK_END)} without an end mark")
    if any(block):
        raise tarfile.ReadError(f"no header at byte {end}")
    while block and not any(block):
        end += len(block)
        block = stream.read(BLOCK)
    return end if block else None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Exception:
    if not member.isreg():
        return ValueError("a link or special file inside the tar, not an image")
    if member.issparse():
        return _whole(cast(BinaryIO, tar.extractfile(member)), member.size)
    return _file(_stream(tar), member.offset_data, member.size)


def _file(stream: BinaryIO, start: int, size: int) -> bytes | Exception:
    stream.seek(start)
    return _whole(stream, size)


def _whole(stream: BinaryIO, size: int) -> bytes | Exception:
    if size > LARGEST:
        return ValueError(f"the member has {size} bytes, more than {LARGEST}")
    data = stream.read(size)
    return data if len(data) == size else ValueError("the tar ends in the middle of this member")


def _stream(tar: tarfile.TarFile) -> BinaryIO:
    return cast(BinaryIO, tar.fileobj)


def _text(name: bytes) -> str:
    """Not all names are UTF-8."""
    return name.decode("utf-8", "backslashreplace")
