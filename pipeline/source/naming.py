"""What the user names: prefixes, globs, files and lists, turned into a stream of loose images and shards."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from pipeline import storage
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.source.ahead import AT_ONCE, ListedAhead
from pipeline.source.format import FORMATS, format_of, format_within
from pipeline.source.item import Wanted
from pipeline.source.kinds import UNKNOWN_VERSION, LooseImage, Shard, Source
from pipeline.source.lists import LIST_ENDINGS, PLAIN, ListLine, read_list
from pipeline.source.passed import PHOTOS, PassedBy
from pipeline.source.patterns import MAGIC, glob_regex, glob_root
from pipeline.storage import Entry

INPUT_FORMATS = ("auto", "images", *FORMATS, "list")
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}|\{([^{},]+(?:,[^{},]+)+)\}")


@dataclass(frozen=True)
class Sources:
    """What the user named: every iteration is a new listing of all inputs, in their order."""

    inputs: tuple[str, ...]
    format: str  # one of INPUT_FORMATS
    extensions: frozenset[str]  # of what is taken for an image, lower case, with the dot
    wanted: Wanted = field(default=Wanted(frozenset()))  # of a list's columns
    output: str = ""  # what lies there is the result of runs, and no source

    def listing(self, *, ahead: bool = False) -> Listing:
        """A new listing; with `ahead` of several remote prefixes at the same time, in the same order."""
        return Listing(self, ahead=ahead)


class Listing:
    """One pass over the sources.

    Of what it has met so far, `passed` counts the other files, `empty` says which inputs had nothing, and `tables`
    whether a list had columns.
    """

    def __init__(self, sources: Sources, *, ahead: bool = False) -> None:
        self.sources = sources
        self.at_once = AT_ONCE if ahead else 1
        self.ahead = ListedAhead()
        self.format = sources.format
        self.extensions = sources.extensions
        self.passed = PassedBy()
        self.empty: list[str] = []
        self.tables = False
        self.folder, self.is_in_output = "", False  # the last one met, and whether it is the output or lies there

    def __iter__(self) -> Iterator[Source]:
        try:
            for name in self._names():
                found = self._expand(name)
                first = next(found, None)
                if first is None:
                    self.empty.append(_why_empty(name))
                else:
                    yield first
                    yield from found
        finally:
            self.ahead.end()

    def _names(self) -> Iterator[str]:
        """The inputs, braces resolved; those behind the one that is taken are listed meanwhile."""
        names = itertools.chain.from_iterable(map(unbraced, self.sources.inputs))
        due = deque(itertools.islice(names, 1))
        while due:
            name = due.popleft()
            for following in itertools.islice(names, self.at_once - 1 - len(due)):
                due.append(following)
                if prefix := self._prefix(following):
                    self.ahead.begin(prefix)
            yield name
            due = due or deque(itertools.islice(names, 1))

    def _prefix(self, given: str) -> str | None:
        """What will be listed for an input, if it is remote and does not look like a file."""
        uri = storage.absolute(given)
        names_a_file = self.format in FORMATS or self._shard(uri) or _ending(uri) in LIST_ENDINGS | self.extensions
        if storage.is_local(uri) or (names_a_file and not uri.endswith("/")):
            return None
        return glob_root(uri)[0] if MAGIC.search(uri) else uri.rstrip("/") + "/"

    def _expand(self, given: str) -> Iterator[Source]:
        uri = storage.as_text(storage.absolute(given))
        single = None if uri.endswith("/") else _stat(uri, given)
        if single is not None:
            yield from self._single(single, given)
        elif MAGIC.search(uri) and not storage.is_folder(uri):
            root, pattern = glob_root(uri)
            matches = re.compile(glob_regex(pattern))
            found = (entry for entry in self._list(root, given) if matches.fullmatch(entry.uri[len(root) :]))
            yield from self._below(found, root, named=True)
        else:
            yield from self._folder(uri, given)

    def _single(self, entry: Entry, given: str) -> Iterator[Source]:
        """A file that was named: its kind follows from --input-format, its ending, its content; else it is an image."""
        key = entry.uri.rpartition("/")[2]
        shard = self.format if self.format in FORMATS else self._shard(entry.uri)
        if shard is not None:
            yield Shard(entry, shard)
        elif self.format == "list" or (self.format == "auto" and _ending(key) in LIST_ENDINGS):
            yield from self._in_list(entry, given)
        elif self.format == "auto" and not self._is_known(key) and (found := _format_within(entry, given)):
            yield Shard(entry, found)
        else:
            yield LooseImage(entry, key)

    def _folder(self, uri: str, given: str) -> Iterator[Source]:
        root = uri.rstrip("/") + "/"
        empty = True
        for source in self._below(self._list(root, given), root, named=False):
            empty = False
            yield source
        names_a_file = format_of(uri) is not None or _ending(uri) in LIST_ENDINGS | self.extensions
        if empty and (names_a_file or storage.is_local(uri)) and not storage.is_folder(uri):
            _check_allowed(uri, given)
            if why := storage.mistaken(uri):
                raise ConfigError(f"--input {given} does not exist: {why}")
            raise ConfigError(f"--input {given} does not exist")

    def _list(self, root: str, given: str) -> Iterator[Entry]:
        try:
            yield from self.ahead.listing(root)
        except (ObjectUnreadable, OSError) as error:
            raise ConfigError(f"--input {given}: {storage.cause_and_file(error)}") from error

    def _below(self, entries: Iterator[Entry], root: str, *, named: bool) -> Iterator[Source]:
        """The files of a folder, or with `named` those that match a pattern: of the former, lists are passed by."""
        for entry in entries:
            key = entry.uri[len(root) :]
            shard, is_image = self._shard(entry.uri), self._is_image(entry.uri)
            as_list = (
                named and self.format == "auto" and not shard and not is_image and _ending(entry.uri) in LIST_ENDINGS
            )
            if self._is_result(entry.uri):
                self.passed.note("of this output")
            elif any(part.startswith(".") for part in key.split("/")):
                self.passed.note("hidden")
            elif self.format == "list" or as_list:
                yield from self._in_list(entry, entry.uri)
            elif shard is not None:
                yield Shard(entry, shard)
            elif is_image:
                yield LooseImage(entry, key)
            else:
                self.passed.note(_ending(entry.uri))

    def _is_result(self, uri: str) -> bool:
        folder = uri.rpartition("/")[0]
        if self.sources.output and folder != self.folder:
            self.folder, self.is_in_output = folder, storage.is_below(folder, self.sources.output)
        return self.is_in_output

    def _shard(self, uri: str) -> str | None:
        found = format_of(uri)
        return found if self.format in ("auto", found) else None

    def _is_image(self, uri: str) -> bool:
        return self.format in ("auto", "images") and _ending(uri) in self.extensions

    def _is_known(self, name: str) -> bool:
        """Whether the ending says what a file is, though perhaps nothing that can be read here."""
        return _ending(name) in self.extensions | PHOTOS

    def _in_list(self, entry: Entry, given: str) -> Iterator[Source]:
        try:
            with io.TextIOWrapper(storage.open_stream(entry), "utf-8-sig", newline="") as lines:
                self.tables |= _ending(entry.uri) != PLAIN
                wanted, images = self.sources.wanted, self.extensions | PHOTOS
                for line in read_list(lines, _ending(entry.uri), wanted, images, self.passed):
                    yield self._named(storage.named_in(entry.uri, line.name), line)
        except ConfigError as error:
            raise ConfigError(f"--input {given}: {error}") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"--input {given}: it is no table of UTF-8 text ({error})") from error
        except (ObjectUnreadable, OSError) as error:
            raise ConfigError(f"--input {given}: the list cannot be read ({storage.cause(error)})") from error

    def _named(self, uri: str, line: ListLine) -> Source:
        """What a line of a list names: a shard by its ending, else an image."""
        shard = format_of(uri)
        if shard and line.kept:
            raise ConfigError(f"--keep: {uri} is a shard, whose images bring their own columns; name it in a .txt list")
        if shard:
            return Shard(_stat(uri, uri) or Entry(uri, 0, storage.MISSING), shard)
        if line.kept:
            check_listed_types(self.sources.wanted)
        return LooseImage(_entry_in_list(uri), line.name, line.kept)


def check_listed_types(wanted: Wanted) -> None:
    """Raise ConfigError where the first shard has a kept column in another type than lists have, which is text."""
    for name, type_ in wanted.types.items():
        if type_ != pa.string():
            raise ConfigError(f"--keep {name}: a list has it as string, the first shard as {type_}; make them equal")


def unbraced(given: str) -> Iterator[str]:
    """`s-{000..041}.tar` and `{a,b}.tar` as the names they stand for; a file of exactly the given name wins."""
    match = BRACES.search(given)
    if match is None or _stat(storage.absolute(given), given) is not None:
        yield given
        return
    first, last, choices = match.groups()
    if choices is None and int(first) > int(last):
        raise ConfigError(f"--input {given}: {match[0]} counts downwards and names nothing")
    for choice in _numbers(first, last) if choices is None else choices.split(","):
        yield from unbraced(given[: match.start()] + choice + given[match.end() :])


def _format_within(entry: Entry, given: str) -> str | None:
    """What a file without an ending holds; taken for an image in a bad minute it would be planned as one for good."""
    try:
        return format_within(entry)
    except (ObjectUnreadable, OSError) as error:
        if not entry.size:  # an empty object has no first bytes that S3 would give
            return None
        why = f"its name does not say what it is, and it cannot be read ({storage.cause(error)})"
        raise ConfigError(f"--input {given}: {why}: --input-format says it") from error


def _numbers(first: str, last: str) -> Iterator[str]:
    """As a shell counts: all as wide as the wider one, if either has zeros in front."""
    padded = any(one.startswith("0") and len(one) > 1 for one in (first, last))
    width = max(len(first), len(last)) if padded else 0
    return (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))


def _check_allowed(uri: str, given: str) -> None:
    """Raise ConfigError for a path that is not seen because a folder above it may not be looked into."""
    try:
        if storage.is_local(uri):
            storage.check_access(uri)
    except PermissionError as error:
        raise ConfigError(f"--input {given}: {storage.cause_and_file(error)}") from error


def _why_empty(given: str) -> str:
    """What an input is that has no image and no shard; one that does not exist on this machine is an error before."""
    uri = storage.absolute(given)
    if storage.is_folder(uri):
        return f"{given} holds no image and no shard"
    if MAGIC.search(uri):
        return f"no file matches {given}"
    is_list = not uri.endswith("/") and _stat(uri, given) is not None
    if is_list:
        return f"{given} is an empty list"
    wider = "" if uri.endswith("/") else f"; {given}* names what begins like that"
    return f"{given} does not exist: there is no such object, and none below it{wider}"


def _entry_in_list(uri: str) -> Entry:
    """A listed image; the version of a remote one is left unknown, as it would take a HEAD request each."""
    if not storage.is_local(uri):
        return Entry(uri, 0, UNKNOWN_VERSION)
    return storage.stat(uri) or Entry(uri, 0, storage.MISSING)


def _ending(uri: str) -> str:
    name = uri.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name[1:] else ""


def _stat(uri: str, given: str) -> Entry | None:
    try:
        return storage.stat(uri)
    except PermissionError:
        return None  # HEAD needs more rights than a listing; the listing then says what is wrong
    except (ObjectUnreadable, OSError) as error:
        raise ConfigError(f"--input {given}: {storage.cause_and_file(error)}") from error
