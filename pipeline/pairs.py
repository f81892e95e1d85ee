"""The rows of two outputs side by side, joined by uri.

Spans of loose images that have the same name are joined as they pass. Others, as of another `--span-size`, are read in
the order of their images: shard by shard, and loose ones as they were planned. In memory are rows that have found no
partner yet: about a span of either output where both have the same images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.output.place import Place
from pipeline.output.span_file import read_columns
from pipeline.plan import files, part_file
from pipeline.plan.names import shard_of
from pipeline.storage import Entry

Pair = tuple[pa.Table, pa.Table]


def pairs(new: Place, old: Place, columns: Sequence[str], counts: Counter[str]) -> Iterator[Pair]:
    """Pairs of tables with the same uris in the same order.

    They have these columns, `uri` among them, and `source`, which their spans are parts of. `counts` gets how many rows
    are in `both`, and only in the `new` or the `old` output.
    """
    mine, theirs = _grouped(new), _grouped(old)
    for group in dict.fromkeys([*mine, *theirs]):
        ours, others = mine.get(group, {}), theirs.get(group, {})
        if not group:
            for name in list(ours.keys() & others.keys()):
                yield from zipped(_read([ours.pop(name)], columns), _read([others.pop(name)], columns), counts)
        yield from zipped(_read(ours.values(), columns), _read(others.values(), columns), counts)


def _grouped(place: Place) -> dict[str, dict[str, Entry]]:
    """The files of spans by shard ("" for loose images) and name, each shard's in the order of its images."""
    found: dict[str, dict[str, Entry]] = {"": {}}
    loose: dict[str, Entry] = {}
    for name, entry in place.spans():
        group = shard_of(name)
        (found.setdefault(group, {}) if group else loose)[name] = entry
    for part in files.listing(place).parts if loose else ():
        for span in part_file.read_part(part)[0]:
            if span.name in loose:
                found[""][span.name] = loose.pop(span.name)
    found[""].update(loose)  # of which no part tells any more
    return found


def _read(entries: Iterable[Entry], columns: Sequence[str]) -> Iterator[pa.Table]:
    """These columns of spans' files, and `source`, which their metadata name."""
    for facts, table in read_columns(entries, columns):
        yield table.append_column("source", pa.array([facts.source] * len(table), pa.string()))


class _Side:
    """The tables of one output, and its rows that have found no partner yet."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        self.tables = iter(tables)
        self.read = self.rows = 0  # so far, and without a partner
        self.alone: list[pa.Table] = []
        self.is_over = False

    def advance(self) -> bool:
        """Read one more table; False where there is none."""
        table = next(self.tables, None)
        if table is None:
            self.is_over = True
            return False
        self.read += len(table)
        self.rows += len(table)
        self.alone.append(table)
        return True

    def keep(self, *alone: pa.Table) -> None:
        """What has found no partner."""
        self.alone, self.rows = list(alone), sum(map(len, alone))

    @property
    def awaits_none(self) -> bool:
        """Whether nothing of the other side can find its partner here."""
        return self.is_over and not self.rows


def zipped(new: Iterable[pa.Table], old: Iterable[pa.Table], counts: Counter[str]) -> Iterator[Pair]:
    """Pairs of tables with the same uris from two sequences of tables, which may be cut differently."""
    mine, theirs = _Side(new), _Side(old)
    left = 0  # rows that the last search has left; the next one waits until there are twice as many
    while True:
        behind, ahead = sorted((mine, theirs), key=lambda side: side.read)
        more = behind.advance() or ahead.advance()
        if mine.rows and theirs.rows and (not more or mine.rows + theirs.rows >= 2 * left):
            *pair, alone, missed = _matched(pa.concat_tables(mine.alone), pa.concat_tables(theirs.alone))
            mine.keep(alone)
            theirs.keep(missed)
            left = mine.rows + theirs.rows
            counts["both"] += len(pair[0])
            if len(pair[0]):
                yield pair[0], pair[1]
        for name, side, other in (("new", mine, theirs), ("old", theirs, mine)):
            if not more or other.awaits_none:
                counts[name] += side.rows
                side.keep()
        if not more:
            return


def _matched(new: pa.Table, old: pa.Table) -> tuple[pa.Table, pa.Table, pa.Table, pa.Table]:
    """The rows of both, in the same order, and what only the new and only the old table has."""
    place = pc.index_in(new["uri"], value_set=old["uri"].combine_chunks())
    has_partner = pc.is_valid(place)
    missed = pc.invert(pc.is_in(old["uri"], value_set=new["uri"].combine_chunks()))
    return new.filter(has_partner), old.take(place.drop_null()), new.filter(pc.invert(has_partner)), old.filter(missed)
