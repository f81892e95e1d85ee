"""Whatever happens to span files, and wherever a compaction is stopped, the next one holds each row once."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.copies import survey as surveys
from pipeline.copies.parts import Part, Piece
from pipeline.copies.survey import Gap, Rewrite, survey
from pipeline.copies.writer import Chunk, files
from pipeline.storage import Entry

Row = tuple[str, str, int]  # span, version, place


@dataclass
class World:
    """Span files by name, with their version and how many rows they have; and the files of a copy by number."""

    spans: dict[str, tuple[str, int]] = field(default_factory=dict)
    copy: dict[int, Part] = field(default_factory=dict)
    held: dict[int, list[Row]] = field(default_factory=dict)
    stamp: int = 0

    def entries(self) -> dict[str, Entry]:
        return {name: Entry(name, rows, version) for name, (version, rows) in sorted(self.spans.items())}

    def change(self, name: str, rows: int | None) -> None:
        self.stamp += 1
        if rows is None:
            self.spans.pop(name, None)
        else:
            self.spans[name] = (f"v{self.stamp}", rows)

    def chunks(self, rewrite: Rewrite) -> Iterator[Chunk]:
        return (self.chunk(gap) for gap in rewrite.gaps)

    def chunk(self, gap: Gap) -> Chunk:
        version, rows = self.spans[gap.span]
        stop = min(gap.stop, rows)
        start = min(gap.start, stop)
        table = pa.table({"row": pa.array(range(start, stop), pa.int64())})
        table = table.add_column(0, "span", pa.array([gap.span] * (stop - start), pa.string()))
        return Chunk(Piece(gap.span, version, start, stop, rows, 0), table)

    def writes(self, most: int) -> Iterator[None]:
        """Do what is to be done, a file at a time."""
        for rewrite in survey(self.entries(), self.copy.values(), most).rewrites:
            targets = [int(entry.uri) for entry in rewrite.targets]
            for data, _ in files(self.chunks(rewrite), most):
                self.put(targets.pop(0) if targets else 1 + max(self.copy, default=0), data)
                yield
            for number in targets:
                del self.copy[number], self.held[number]
                yield

    def put(self, number: int, data: bytes) -> None:
        self.stamp += 1
        file = pq.ParquetFile(pa.BufferReader(data))
        pieces = tuple(Piece(*piece) for piece in json.loads(file.metadata.metadata[b"beit"])["pieces"])
        self.copy[number] = Part(Entry(f"{number:05d}", len(data), f"c{self.stamp}"), pieces)
        versions = {piece.span: piece.version for piece in pieces}
        self.held[number] = [(row["span"], versions[row["span"]], row["row"]) for row in file.read().to_pylist()]

    def rows(self) -> Counter[Row]:
        return Counter(row for rows in self.held.values() for row in rows)

    def wanted(self) -> Counter[Row]:
        return Counter((name, version, row) for name, (version, rows) in self.spans.items() for row in range(rows))


def changes(names: str) -> st.SearchStrategy[list[tuple[str, int | None]]]:
    """Span files that are written, with so many rows, or deleted."""
    return st.lists(st.tuples(st.sampled_from(names), st.none() | st.integers(0, 9)), min_size=1, max_size=8)


nights = st.lists(
    st.tuples(changes("abcdefghijkl"), st.sampled_from([1, 3, 6, 6, 6, 40]), st.integers(0, 6)), min_size=1, max_size=6
)


@settings(max_examples=100, deadline=None)
@given(nights)
@example([([("c", 5), ("d", 3), ("e", 4)], 6, 0), ([("a", 1)], 1, 0), ([("b", None)], 3, 3)])  # small parts of spans
def test_each_row_is_held_once(nights: list[tuple[list[tuple[str, int | None]], int, int]]) -> None:
    world = World()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(surveys, "SMALL", 3)  # so that files are merged often
        for changed, most, killed_after in nights:
            for name, rows in changed:
                world.change(name, rows)
            for _ in range(2):  # the first of them is about what is new, the second one may merge
                list(islice(world.writes(most), killed_after))
            for _ in range(3):
                list(world.writes(most))
            assert world.rows() == world.wanted()
            assert all(part.rows <= most for part in world.copy.values())
            assert not survey(world.entries(), world.copy.values(), most).rewrites


@settings(max_examples=100, deadline=None)
@given(st.lists(changes("abcdefg"), min_size=1, max_size=5))
def test_readers_find_no_row_twice_meanwhile(nights: list[list[tuple[str, int | None]]]) -> None:
    """Where spans fit into a file, and there are too few files to merge some."""
    world = World()
    for changed in nights:
        for name, rows in changed:
            world.change(name, rows)
        for _ in world.writes(most=9):
            assert max(Counter((span, row) for span, _, row in world.rows().elements()).values(), default=1) == 1
        assert world.rows() == world.wanted()
