"""The rows of an output in few large files, in a folder of their own: begun, continued, or brought up to date.

Killed at any moment, the same command continues: files are put whole, and say which rows they hold. Two at once do no
harm: a file is created, or replaced, only where it is what was seen before, and each ends by looking again.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.copies.parts import ChangedError, Copy, Part
from pipeline.copies.rows import IMAGE, Pictured, rows
from pipeline.copies.survey import Gap, Rewrite, Survey, survey
from pipeline.copies.writer import Chunk, files
from pipeline.errors import ConfigError, ObjectUnreadable, StorageError
from pipeline.images import wanted_by
from pipeline.log import say
from pipeline.output.bound import Bound, bound_of
from pipeline.output.place import Place
from pipeline.output.span_file import read_facts
from pipeline.storage import Entry

ROUNDS = 50  # others may write meanwhile
PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0  # of who was slower, at most, the first time and at last
AGAIN = "nothing finished is lost, the same command continues"
Reading = Callable[[Iterable[Gap]], Iterator[Chunk]]


class Compacted(NamedTuple):
    """What a copy holds now, how many of its files were written for that, and rows whose picture cannot be read."""

    rows: int
    files: int
    written: int
    lost: int


def compact(output: str, dest: str, rows_per_file: int, *, images: bool = False) -> Compacted:
    """Bring the copy of an output in `dest` up to date; files hold at most so many rows.

    Memory: a file, 512 MiB at most, and some row groups. Raises ConfigError for an output that is not ours, and for a
    destination that is another's or lies inside the output.
    """
    place, read = Place.of(output), rows
    with storage.checking(dest):
        bound, copy = _begun(place, dest, images=images, most=rows_per_file)
    if images:
        read = Pictured(wanted_by(bound), bound.keep).rows
    try:
        with storage.patient(RunConfig.patience, say):
            return _brought_up_to_date(place, copy, read, rows_per_file)
    except (OSError, ObjectUnreadable) as error:
        raise StorageError(f"{dest}: {storage.cause_and_file(error)}; {AGAIN}") from error
    except KeyboardInterrupt:
        storage.sweep(copy.root)
        raise StorageError(f"interrupted: {AGAIN}") from None


class CopyState(NamedTuple):
    """A sentence about a copy, and whether it is as new as its output."""

    said: str
    is_current: bool


def state_of_copy(dest: str) -> CopyState | None:
    """How the copy in a folder stands to its output; None where there is no copy.

    Raises ConfigError where its output is none any more.
    """
    with storage.checking(dest):
        copy = Copy.at(dest)
        if copy is None:
            return None
        place = Place(copy.output)
        bound_of(place)
    spans = dict(place.spans())
    found = survey(spans, copy.parts())
    news = _news(found, spans)
    advice = f"older: {news}; the same jobs/compact.py brings it up to date" if news else "as new as that"
    return CopyState(f"{dest} is a copy of {copy.output}, {advice}", not news)


def _news(found: Survey, spans: Mapping[str, Entry]) -> str:
    """What has happened to the output since, empty for nothing."""
    then: dict[str, int] = {}
    for piece in (piece for part in found.stale for piece in part.pieces):
        then[piece.span] = max(then.get(piece.span, 0), piece.forgotten)
    forgotten = sum(len(read_facts(spans[name]).forgotten) - count for name, count in then.items() if name in spans)
    if forgotten > 0:
        return f"{forgotten:,} images were forgotten since"
    return "files were written since" if found.rewrites else ""


def _begun(place: Place, dest: str, *, images: bool, most: int) -> tuple[Bound, Copy]:
    """What the output is bound to, and its copy, begun. Raises ConfigError."""
    if most < 1:
        raise ConfigError(f"--rows-per-file {most}: give a number above 0")
    root = storage.absolute(dest).rstrip("/")
    if storage.is_below(root, place.root):
        raise ConfigError(f"{dest} lies inside {place.root}: choose a folder of its own")
    if storage.is_below(place.root, root):
        raise ConfigError(f"{place.root} lies inside {dest}: choose a folder of its own")
    if unfit := storage.unfit(root, shared=False):
        raise ConfigError(f"{dest}: {unfit}")
    if storage.is_local(root) and storage.stat(root) is not None:
        raise ConfigError(f"{dest} is a file: give a folder")
    bound, copy = bound_of(place), Copy(root, place.root, images)
    if images and IMAGE in bound.keep:
        raise ConfigError(f"--images: {place.root} has a column {IMAGE} already, from --keep {IMAGE}")
    storage.check_put(copy.file(0))
    copy.begin()
    storage.sweep(root)
    return bound, copy


def _brought_up_to_date(place: Place, copy: Copy, read: Reading, most: int) -> Compacted:
    writer = _Writer(copy, read, most)
    before: Mapping[str, Entry] | None = None
    for turn in range(ROUNDS):
        try:
            spans, parts = dict(place.spans()), copy.parts()
            found = survey(spans, parts, most)
            if not found.rewrites or (before is not None and not found.concerns(before)):
                return _said(parts, writer.written)
            before = spans
            writer.number = 1 + max((copy.number(part) for part in parts), default=-1)
            for rewrite in found.rewrites:
                writer.do(rewrite)
        except ChangedError as error:
            say(f"{error}: looking again")
            time.sleep(random.uniform(0, min(PAUSE_S * 2**turn, LONGEST_PAUSE_S)))
    raise StorageError(f"{place.root} or {copy.root} changes all the time: wait for who writes there; {AGAIN}")


def _said(parts: list[Part], written: int) -> Compacted:
    return Compacted(sum(part.rows for part in parts), len(parts), written, sum(part.lost for part in parts))


@dataclass
class _Writer:
    """Writes files of a copy; `number` is that of the next new one."""

    copy: Copy
    read: Reading
    most: int
    number: int = 0
    written: int = 0

    def do(self, rewrite: Rewrite) -> None:
        """Write what is to be written, and remove what is left over. Raises ChangedError if another was faster."""
        targets = list(rewrite.targets)
        for data, count in files(self.read(rewrite.gaps), self.most):
            name = self._put(data, targets.pop(0) if targets else None)
            del data  # before the next one grows
            say(f"{name}: {count:,} rows")
            self.written += 1
        for target in targets:
            storage.delete(target.uri)

    def _put(self, data: bytes, target: Entry | None) -> str:
        if target:
            name, is_mine = target.uri, storage.replace(target.uri, data, target.version)
        else:
            name = self.copy.file(self.number)
            is_mine, self.number = storage.create(name, data), self.number + 1
        if not is_mine:
            raise ChangedError(f"{name} was written by another")
        return name
