"""WebDataset tars: consecutive members that share a key are a sample, its image members are the images.

Nothing is ever extracted to a path, so what a member is called (absolute, `..`) and what links point to cannot matter.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import tarfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.columns import TEXT_MEMBERS
from pipeline.errors import CredentialsLost, ObjectUnreadable
from pipeline.storage import Entry

SAMPLE = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)  # "a/0001.mask.png" -> "a/0001", "mask.png"
LARGEST_NAME = 1 << 20  # bytes of a long name or PAX header; more is damage, and would be read into memory whole
READ_WHOLE = (
    tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
)  # fmt: skip
LARGEST_MEMBER = 1 << 30  # bytes; a larger "image" would take the worker down rather than decode
BLOCK = 512


@dataclass
class Item:
    """One image on its way: its bytes or the reason why not, what is kept beside it, and where it was found."""

    uri: str
    key: str
    data: bytes | Exception
    kept: dict[str, Any] = field(default_factory=dict)
    offset: int = 0
    skip: int = 0


@dataclass
class Members:
    """Which members matter: image endings (without dot), or the one `column` that is the image, and what is kept."""

    endings: frozenset[str]
    column: str | None
    keep: tuple[str, ...]

    def is_image(self, ending: str) -> bool:
        """Whether a sample's member with this ending is an image; of `mask.png` only `--image-column` says so."""
        return ending == self.column if self.column else ending.lower() in self.endings


class Names:
    """Member names made unique: a repeated one gets `~2`, `~3`, ...; `used` may be filled from rows written before."""

    def __init__(self) -> None:
        self.used: set[str] = set()
        self.repeated = False

    def unique(self, name: str) -> str:
        """The name itself the first time."""
        candidate, count = name, 1
        while candidate in self.used:
            count += 1
            candidate = f"{name}~{count}"
        self.repeated |= count > 1
        self.used.add(candidate)
        return candidate


def read_tar(entry: Entry, members: Members, offset: int, skip: int, names: Names) -> Iterator[Item]:
    """The images of a tar from a position on, in order.

    A tar that cannot be read on ends with an item for the tar itself, whose data is the reason and whose position is
    where reading would go on.
    """
    last = (offset, skip - 1)
    try:
        with storage.open_stream(entry, pinned=True) as stream:
            for item in itertools.islice(_archives(stream, entry, members, offset), skip, None):
                last = item.offset, item.skip
                item.uri = f"{entry.uri}#{names.unique(item.uri)}"
                yield item
        return
    except CredentialsLost:
        raise
    except tarfile.TarError as error:
        reason: Exception = ValueError(f"the tar is damaged or cut: {error}")
    except (ValueError, OverflowError):  # tarfile seeks and reads by whatever numbers a damaged header holds
        reason = ValueError("the tar is damaged or cut: a header holds an impossible number")
    except (OSError, ObjectUnreadable) as error:
        reason = ObjectUnreadable(f"the tar cannot be read on: {storage.reason(error)}")
    yield Item(entry.uri, "", reason, {}, last[0], last[1] + 1)


class _Header(tarfile.TarInfo):
    """A header that is not believed blindly: tarfile reads names and PAX records of any size it is told."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.size < 0 or (self.size > LARGEST_NAME and self.type in READ_WHOLE):
            raise tarfile.ReadError("a header holds an impossible number")
        checked: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]  # made to be overridden, yet untyped
        return checked


def endings(entry: Entry, most: int) -> Counter[str]:
    """How often each ending occurs among the first `most` members, as `--keep` and `--image-column` name them."""
    found: Counter[str] = Counter()
    with (
        contextlib.suppress(tarfile.TarError, OSError),
        storage.open_stream(entry) as stream,
        tarfile.open(fileobj=stream, mode="r:") as tar,
    ):
        for member in itertools.islice(tar, most):
            if match := SAMPLE.fullmatch(member.name):
                found[match[2]] += 1
    return found


def _archives(stream: BinaryIO, entry: Entry, members: Members, offset: int) -> Iterator[Item]:
    """All archives of the file: more than one where tars were simply concatenated."""
    while offset < entry.size or offset == 0:
        stream.seek(offset)
        with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:
            yield from _samples(tar, members)
            end: int = tar.offset
        offset = _next_archive(stream, end, entry.size)


def _next_archive(stream: BinaryIO, end: int, size: int) -> int:
    """Where another archive begins behind the end mark, or the file's size; raises where there is no end mark."""
    stream.seek(end)
    block = stream.read(BLOCK)
    if len(block) < BLOCK:
        raise tarfile.ReadError(f"it ends at byte {size} without an end mark")
    if any(block):
        raise tarfile.ReadError(f"no header at byte {end}")
    while block and not any(block):
        end += len(block)
        block = stream.read(BLOCK)
    return end if block else size


def _samples(tar: tarfile.TarFile, members: Members) -> Iterator[Item]:
    images: list[Item] = []
    kept: dict[str, Any] = {}
    current: str | None = None
    start = 0
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps every header for ever; a shard may hold millions
        name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")  # not all are UTF-8
        match = SAMPLE.fullmatch(name)
        if match is None or member.isdir():
            continue
        key, ending = match.groups()
        if key != current:
            yield from _flush(images, kept, start)
            images, kept, current, start = [], {}, key, member.offset
        if members.is_image(ending):
            images.append(Item(name, key, _content(tar, member)))
        if ending in members.keep:
            kept[ending] = _kept(tar, member, ending)
    yield from _flush(images, kept, start)


def _flush(images: list[Item], kept: dict[str, Any], start: int) -> Iterator[Item]:
    for skip, item in enumerate(images):
        item.kept, item.offset, item.skip = kept, start, skip
        yield item


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | Exception:
    if not member.isreg():
        return ValueError("a link or special file inside the tar, not an image")
    if member.size > LARGEST_MEMBER:
        return ValueError(f"the member has {member.size} bytes, more than {LARGEST_MEMBER}")
    file = tar.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        return ValueError("the tar ends in the middle of this member")
    return data


def _kept(tar: tarfile.TarFile, member: tarfile.TarInfo, ending: str) -> Any:
    data = _content(tar, member)
    if isinstance(data, Exception):
        return None
    return data.decode("utf-8", "replace") if ending.lower() in TEXT_MEMBERS else data
