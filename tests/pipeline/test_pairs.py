"""Rows of two outputs side by side: every pair once, nothing else, and few rows in memory."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.output.place import Place
from pipeline.pairs import pairs, zipped
from tests.flow import make_tar, png, run_here


def tables(uris: list[int], cuts: list[int]) -> Iterator[pa.Table]:
    """Tables of these uris, cut at these places."""
    places = sorted({0, len(uris), *(cut % (len(uris) + 1) for cut in cuts)})
    for start, stop in pairwise(places):
        yield pa.table({"uri": pa.array([str(uri) for uri in uris[start:stop]], pa.string())})


numbers = st.lists(st.integers(0, 60), unique=True)
cuts = st.lists(st.integers(0, 60))


@settings(deadline=None)  # the first call imports
@given(numbers, cuts, numbers, cuts)
def test_every_pair_is_found_once_however_the_tables_are_cut(
    new: list[int], new_cuts: list[int], old: list[int], old_cuts: list[int]
) -> None:
    counts: Counter[str] = Counter()
    found = []
    for mine, theirs in zipped(tables(new, new_cuts), tables(old, old_cuts), counts):
        assert mine["uri"].to_pylist() == theirs["uri"].to_pylist()
        found += mine["uri"].to_pylist()
    assert sorted(map(int, found)) == sorted(set(new) & set(old))
    assert (counts["both"], counts["new"], counts["old"]) == (
        len(set(new) & set(old)), len(set(new) - set(old)), len(set(old) - set(new)),
    )  # fmt: skip


def test_no_more_is_read_than_the_next_pair_needs() -> None:
    taken = [0, 0]

    def reading(side: int, size: int) -> Iterator[pa.Table]:
        for table in tables(list(range(1000)), list(range(0, 1000, size))):
            taken[side] += len(table)
            yield table

    given_out = 0
    for mine, _ in zipped(reading(0, 10), reading(1, 35), Counter()):
        given_out += len(mine)
        assert max(taken) - given_out <= 2 * 35
    assert given_out == 1000


def test_loose_images_and_shards_in_spans_of_other_sizes(tmp_path: Path) -> None:
    source = tmp_path / "in"
    make_tar(source / "a.tar", [(f"{n:02d}.png", png(n)) for n in range(50)])
    for number in range(70):
        (source / f"{number:02d}.png").write_bytes(png(number))
    places = []
    for size in (16, 20):
        assert run_here(source, tmp_path / f"out{size}", "brightness", span_size=size) == 0
        places.append(Place.of(str(tmp_path / f"out{size}")))
        (source / "new.png").write_bytes(png(99))
    counts: Counter[str] = Counter()
    found = [uri for mine, _ in pairs(*places, ["uri", "brightness"], counts) for uri in mine["uri"].to_pylist()]
    assert len(found) == len(set(found)) == 120
    assert counts == {"both": 120, "new": 0, "old": 1}
