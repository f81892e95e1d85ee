"""Zip archives. A position is the number of a sample's first member in the central directory."""

from __future__ import annotations

import functools
import io
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ObjectUnreadable, PipelineError
from pipeline.source import samples
from pipeline.source.item import LARGEST, Item, Position, Wanted
from pipeline.source.samples import Member
from pipeline.storage import Entry
from pipeline.storage.ranged import Meter, Ranges

BUFFER = 1 << 18  # bytes per request where single members are picked
END = 1 << 62  # the offset behind the last image: members that are no images have numbers too
BZIP2_DAMAGE = ("Invalid data stream",)  # arguments of the OSError that bzip2's decompressor raises
# zipfile raises NotImplementedError for a directory that asks for an unknown version of zip.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, NotImplementedError)


class Zip:
    """Zips, stored or compressed; encrypted members are rows with a reason."""

    endings = (".zip",)
    mark = (0, (b"PK\3\4", b"PK\5\6"))
    names_repeat = True
    counts_bytes = False

    def check(self, shard: Entry, wanted: Wanted) -> dict[str, pa.DataType]:
        """As in `ShardFormat`; a damaged zip becomes a row and does not refuse the whole input."""

        def there() -> Iterator[Member]:
            with storage.open_stream(shard, pinned=True) as stream:
                yield from members(stream, 0)

        return samples.check_members(there(), shard, wanted, (OSError, ObjectUnreadable, *DAMAGE))

    def items(self, shard: Entry, wanted: Wanted, at: Position) -> Iterator[Item]:
        """As in `ShardFormat`."""

        def images() -> Iterator[Item]:
            with storage.open_stream(shard, pinned=True) as stream:
                yield from samples.samples(members(stream, at.offset), wanted, at.passed, _damage)

        return samples.until_failure(images(), shard, at, "zip", _damage)

    def end(self, shard: Entry, images: int) -> int:  # noqa: ARG002 - other formats know better
        """A number beyond any member's."""
        return END

    def pick(self, shard: Entry, wanted: Wanted, names: set[str], meter: Meter) -> Iterator[tuple[str, bytes]]:
        """As in `ShardFormat`: the central directory and these members are read, nothing else."""
        stream = io.BufferedReader(Ranges(shard, meter), BUFFER)
        yield from samples.pick(members(stream, 0), wanted, Position(), names)


def _damage(error: Exception) -> str | None:
    return str(error) if isinstance(error, DAMAGE) else None


def members(stream: BinaryIO, first: int) -> Iterator[Member]:
    """The members from number `first` on, in the order of the central directory."""
    with _opened(stream) as archive:
        for number, member in enumerate(archive.infolist()[first:], first):
            if not member.is_dir():
                yield Member(member.filename, number, functools.partial(_content, archive, member))


def _opened(stream: BinaryIO) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(stream)
    except zipfile.BadZipFile as error:
        if isinstance(error.__context__, OSError):  # to zipfile an archive that cannot be read is none
            raise error.__context__ from None
        raise


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | Exception:
    if member.file_size > LARGEST:  # zipfile reads no more than the size stated
        return ValueError(f"the member has {member.file_size} bytes, more than {LARGEST}")
    if member.flag_bits & 1:
        return ValueError("the member is encrypted")
    try:
        return archive.read(member)
    except NotImplementedError:
        return ValueError(f"the member is compressed in a way that is not known (method {member.compress_type})")
    except (OSError, PipelineError, MemoryError) as error:
        if error.args != BZIP2_DAMAGE:
            raise
        return ValueError("the member is damaged (bzip2)")
    except Exception as error:  # every way of compression has a type of its own
        return ValueError(f"the member is damaged ({type(error).__name__})")
