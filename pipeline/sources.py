"""What the user names: prefixes, globs, files and lists, turned into a stream of loose images and shards."""

from __future__ import annotations

import csv
import fnmatch
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pipeline import disk, storage
from pipeline.errors import ConfigError, ObjectUnreadable
from pipeline.storage import Entry

Format = Literal["auto", "images", "tar", "parquet", "list"]
MAGIC = re.compile(r"[*?\[]")
SHARDS = {".tar": "tar", ".parquet": "parquet", ".pq": "parquet"}
LISTS = {".txt", ".csv", ".tsv"}
LISTED = "listed"  # the version of a remote image that a list names
URI_HEADERS = ("uri", "url", "path", "image", "file", "filename", "key")


@dataclass(frozen=True)
class Source:
    """One loose image or shard; `key` is its path below the input as the user gave it."""

    kind: Literal["images", "tar", "parquet"]
    entry: Entry
    key: str


@dataclass
class Sources:
    """A stream of `Source` over all inputs, in their order; `skipped` counts other files by their ending."""

    inputs: list[str]
    format: Format
    extensions: frozenset[str]
    skipped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Source]:
        self.skipped.clear()
        for given in self.inputs:
            yield from self._expand(given)

    def _expand(self, given: str) -> Iterator[Source]:
        uri = storage.absolute(given)
        single = None if uri.endswith("/") else _stat(uri, given)
        if single is not None:
            yield from self._single(single, given)
        elif MAGIC.search(uri) and not storage.is_folder(uri):
            root, pattern = _glob_root(uri)
            matches = re.compile(_glob_regex(pattern))
            found = (entry for entry in _list(root, given) if matches.fullmatch(entry.uri[len(root) :]))
            yield from self._below(found, root, named=True)
        else:
            root = uri.rstrip("/") + "/"
            yield from self._below(_list(root, given), root, named=False)

    def _single(self, entry: Entry, given: str) -> Iterator[Source]:
        kind = self._kind(entry.uri)
        if self.format == "list" or (kind is None and self.format == "auto" and _ending(entry.uri) in LISTS):
            yield from self._listed(entry, given)
        else:
            yield Source(kind or "images", entry, entry.uri.rsplit("/", 1)[-1])

    def _below(self, entries: Iterator[Entry], root: str, *, named: bool) -> Iterator[Source]:
        for entry in entries:
            kind = self._kind(entry.uri)
            if self.format == "list" or (named and kind is None and _ending(entry.uri) in LISTS):
                yield from self._listed(entry, entry.uri)
            elif any(part.startswith(".") for part in entry.uri[len(root) :].split("/")):
                self.skipped["hidden"] += 1
            elif kind is None:
                self.skipped[_ending(entry.uri) or "no ending"] += 1
            else:
                yield Source(kind, entry, entry.uri[len(root) :])

    def _kind(self, uri: str) -> Literal["images", "tar", "parquet"] | None:
        ending = _ending(uri)
        if self.format == "images":
            return "images" if ending in self.extensions else None
        if self.format in ("tar", "parquet"):
            return self.format if SHARDS.get(ending) == self.format else None
        kind = SHARDS.get(ending)
        return kind or ("images" if ending in self.extensions else None)  # type: ignore[return-value]  # values of SHARDS

    def _listed(self, entry: Entry, given: str) -> Iterator[Source]:
        try:
            with io.TextIOWrapper(storage.open_stream(entry), "utf-8-sig", newline="") as lines:
                for line in list_uris(lines, _ending(entry.uri)):
                    yield Source("images", _listed_entry(storage.named_in(entry.uri, line)), line)
        except (UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"--input {given}: the list is no UTF-8 text with a URI a line ({error})") from error
        except (ObjectUnreadable, OSError) as error:
            raise ConfigError(f"--input {given}: the list cannot be read ({storage.reason(error)})") from error


def _listed_entry(uri: str) -> Entry:
    """A listed image; a remote one is not looked at: a million HEAD requests would be the price of its version."""
    if not storage.is_local(uri):
        return Entry(uri, 0, LISTED)
    return storage.stat(uri) or Entry(uri, 0, disk.MISSING)


def list_uris(lines: Iterable[str], ending: str) -> Iterator[str]:
    """The URIs of a list: one a line, or the first fitting column of a .csv / .tsv (by header, else the first)."""
    if ending == ".txt":
        yield from (line for line in map(str.strip, lines) if line and not line.startswith("#"))
        return
    rows = csv.reader(lines, delimiter="\t" if ending == ".tsv" else ",")
    first = next(rows, [])
    names = [cell.strip().lower() for cell in first]
    column = next((names.index(name) for name in URI_HEADERS if name in names), None)
    if column is None and first:
        column = 0
        yield first[0]
    yield from (row[column or 0] for row in rows if len(row) > (column or 0) and row[column or 0])


def _ending(uri: str) -> str:
    name = uri.rsplit("/", 1)[-1]
    return "." + name.rsplit(".", 1)[1].lower() if "." in name[1:] else ""


def _glob_root(uri: str) -> tuple[str, str]:
    """The folder above the first wildcard, with its slash, and the pattern below it."""
    fixed = uri[: MAGIC.search(uri).start()]  # type: ignore[union-attr]  # the caller has seen the wildcard
    root = fixed[: fixed.rfind("/") + 1]
    return root, uri[len(root) :]


def _glob_regex(pattern: str) -> str:
    """Shell rules: `*` and `?` stay within a folder, `**` crosses folders."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[[^]]+\])", pattern)
    table = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        table.get(piece) or (_bracket(piece) if piece[:1] == "[" and len(piece) > 2 else re.escape(piece))
        for piece in pieces
    )


def _bracket(piece: str) -> str:
    return fnmatch.translate(piece).removeprefix("(?s:").removesuffix(r")\Z")


def _stat(uri: str, given: str) -> Entry | None:
    try:
        return storage.stat(uri)
    except PermissionError:
        return None  # HEAD needs more rights than a listing; the listing then says what is wrong
    except (ObjectUnreadable, OSError) as error:
        raise ConfigError(f"--input {given}: {error}") from error


def _list(root: str, given: str) -> Iterator[Entry]:
    try:
        yield from storage.listing(root)
    except (ObjectUnreadable, OSError) as error:
        raise ConfigError(f"--input {given}: {error}") from error
