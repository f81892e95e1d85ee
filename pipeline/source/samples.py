"""Archives in WebDataset's manner: consecutive members that share a key are a sample, its image members the images.

A member whose name occurs again in a sample begins another one.

Nothing is ever extracted to a path, so absolute names, `..` and links are harmless.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.source.item import Item, NoImage, Position, Wanted
from pipeline.source.passed import HOW_TO_READ
from pipeline.storage import Entry

SAMPLE = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)  # "a/0001.mask.png" -> "a/0001", "mask.png"
LOOKED_AT = 1000  # members, to tell which endings there are
TEXT = {"cls", "cls2", "txt", "json", "caption", "text"}  # kept members that are strings; others are binary

# What an error shows to be wrong with the bytes of an archive; None where it is about something else.
Damage = Callable[[Exception], str | None]


@dataclass(frozen=True)
class Member:
    """A file of an archive: its name, where it stands, and how to get its bytes (or the reason why there are none)."""

    name: str
    offset: int
    read: Callable[[], bytes | Exception]


def samples(members: Iterable[Member], wanted: Wanted, passed: Counter[str], damage: Damage) -> Iterator[Item]:
    """The images of an archive; the kept members of a sample go with each of its images.

    Photos that cannot be read here are counted in `passed`, by ending. Of a sample that damage cuts off there are the
    images before it; of one that could be read later on there is nothing, as its kept members may be still to come.
    """
    sample = _Sample("", 0)
    try:
        for member in members:
            match = SAMPLE.fullmatch(member.name)
            if match is None:
                continue
            key, ending = match.groups()
            if sample.is_over(key, ending):
                yield from sample.items()
                sample = _Sample(key, member.offset)
            sample.add(member, ending, wanted, passed)
    except Exception as error:
        if damage(error) is not None:
            sample.images = [item for item in sample.images if isinstance(item.data, bytes)]
            yield from sample.items()
        raise
    yield from sample.items()


class _Sample:
    """Members that share a key, as they come; `start` is the offset of the first."""

    def __init__(self, key: str, start: int) -> None:
        self.key, self.start = key, start
        self.images: list[Item] = []
        self.kept: dict[str, object] = {}
        self.taken: set[str] = set()  # endings of images and kept members

    def is_over(self, key: str, ending: str) -> bool:
        """Whether a member begins another sample: by its key, or because this one has a member of its name."""
        return key != self.key or ending in self.taken

    def add(self, member: Member, ending: str, wanted: Wanted, passed: Counter[str]) -> None:
        """Take from a member what is wanted."""
        if wanted.is_image(ending):
            self.images.append(Item(member.name, self.key, member.read()))
            self.taken.add(ending)
        elif wanted.passes_photo(ending):
            passed[f".{ending.lower()}"] += 1
        if ending in wanted.keep:
            _check_type(wanted, ending)
            self.kept[ending] = _kept(member, ending)
            self.taken.add(ending)

    def items(self) -> Iterator[Item]:
        """Its images, with what is kept."""
        for skip, item in enumerate(self.images):
            item.kept, item.offset, item.skip = self.kept, self.start, skip
            yield item


def _kept(member: Member, ending: str) -> object:
    data = member.read()
    if isinstance(data, Exception):
        return None
    return data.decode("utf-8", "replace") if member_type(ending) == pa.string() else data


def member_type(ending: str) -> pa.DataType:
    """The type of a kept member: text for labels and captions, else binary."""
    return pa.string() if ending.lower() in TEXT else pa.binary()


def _check_type(wanted: Wanted, name: str) -> None:
    """Raise ConfigError where the first shard has a kept column in another type than members have."""
    first = wanted.types.get(name, member_type(name))
    if first != member_type(name):
        theirs = f"members of archives are {member_type(name)}, the first shard has it as {first}"
        raise ConfigError(f"--keep {name}: {theirs}; make them equal")


def from_position(items: Iterator[Item], shard: Entry, at: Position) -> Iterator[Item]:
    """The items after the images to pass by, under URIs that are unique in the shard."""
    for item in itertools.islice(items, at.skip, None):
        item.uri = f"{shard.uri}#{at.names.unique(item.uri)}"
        yield item


def until_failure(items: Iterator[Item], shard: Entry, at: Position, kind: str, damage: Damage) -> Iterator[Item]:
    """The images from a position on; where reading fails, an item for the shard ends them (see `ShardFormat.items`).

    `kind` is what messages call the archive.
    """
    last = (at.offset, at.skip - 1)
    try:
        for item in from_position(items, shard, at):
            last = item.offset, item.skip
            yield item
        return
    except Exception as error:
        said = damage(error)
        if said is not None:
            reason: Exception = ValueError(f"the {kind} is damaged or cut: {said}")
        elif isinstance(error, OSError | ObjectUnreadable):
            reason = ObjectUnreadable(f"the {kind} cannot be read on: {storage.reason(error)}")
        else:
            raise
    yield Item(shard.uri, "", reason, {}, last[0], last[1] + 1)


def check_members(
    members: Iterable[Member], shard: Entry, wanted: Wanted, unreadable: tuple[type[Exception], ...]
) -> dict[str, pa.DataType]:
    """Raise ConfigError for a wanted ending that no member has: it would give an empty column and look like success.

    Raises NoImage where none has an image's. What is `unreadable` ends the members: it is no reason to refuse others.
    """
    there, seen = endings(members, wanted, unreadable)
    types = {name: member_type(name) for name in wanted.keep}
    if seen == 0:
        raise NoImage(f"{shard.uri} has no files in it", types, empty=True)
    if not there and seen is not None and seen < LOOKED_AT:
        raise NoImage(f"no image among the {seen:,} files of {shard.uri}, whose names have no endings", types)
    if not there:
        return types  # damaged, which is no reason to refuse the others, or with such names at first
    has = f"among the first {LOOKED_AT:,} members of {shard.uri}, which has {', '.join(sorted(there))}"
    asked = [("image-column", wanted.image_column)] if wanted.image_column else []
    for flag, name in [*asked, *(("keep", name) for name in wanted.keep)]:
        if name not in there:
            raise ConfigError(f"--{flag} {name}: no such member {has}{_meant(name, there)}")
        _check_type(wanted, name)
    if not any(map(wanted.is_image, there)):
        photos = f", {HOW_TO_READ}" if any(map(wanted.passes_photo, there)) else ""
        raise NoImage(f"no image {has}: --image-column names the ending to take{photos}", types)
    return types


def _meant(name: str, there: Iterable[str]) -> str:
    plain = name.removeprefix(".")
    return f": give {plain}" if plain in there else ""


def endings(
    members: Iterable[Member], wanted: Wanted, unreadable: tuple[type[Exception], ...]
) -> tuple[Counter[str], int | None]:
    """How often each ending occurs among the first members, as `--keep` and `--image-column` name them.

    Where nothing is to be kept, the first image is enough. Beside it how many members that were, None for damage.
    """
    found: Counter[str] = Counter()
    seen = 0
    try:
        for member in itertools.islice(members, LOOKED_AT):
            seen += 1
            if match := SAMPLE.fullmatch(member.name):
                found[match[2]] += 1
                if wanted.is_image(match[2]) and found.keys() >= set(wanted.keep):
                    break
    except unreadable:
        return found, None
    return found, seen


def pick(members: Iterable[Member], wanted: Wanted, at: Position, names: set[str]) -> Iterator[tuple[str, bytes]]:
    """The images of these names, as `from_position` calls them; stops behind the last one."""
    left = set(names)
    for member in members:
        match = SAMPLE.fullmatch(member.name)
        if match is None or not wanted.is_image(match[2]):
            continue
        name = at.names.unique(member.name)
        if name in left:
            left.discard(name)
            data = member.read()
            if isinstance(data, bytes):
                yield name, data
        if not left:
            return
