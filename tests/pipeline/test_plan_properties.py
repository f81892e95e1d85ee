"""However a source grows and a run is interrupted, every image is planned in exactly one span."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.output.bound import SCHEMA, Bound, BoundModel, SpanSize
from pipeline.output.columns import schema_of
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.output.span_file import SpanFacts, write_span
from pipeline.plan import files, loose, part_file, planner, span_size
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.rows import LooseSpan
from pipeline.source.item import Wanted
from pipeline.source.kinds import LooseImage
from pipeline.storage import Entry

COUNT = itertools.count()
EMPTY = schema_of({}, {}).empty_table()
SIZE = SpanSize(3, 2, 6)  # loose spans of 2 images, of 4 from the 8th on and of 6 from the 12th, see below
MODEL = BoundModel("m", "encoder", "0", "hf")
BOUND = Bound(SCHEMA, "embed", {}, MODEL, "float32", False, 4, False, (), None, SIZE, {}, ("png",))
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.integers(0, 40), st.integers(1, 3), max_size=25),  # images listed, with their versions
        st.integers(0, 20),  # rows of the plan that the run lives to see
        st.booleans(),  # whether it finishes what it has seen
    ),
    min_size=1,
    max_size=6,
)


def sources(images: dict[int, int]) -> list[LooseImage]:
    return [LooseImage(Entry(f"/in/{n:02d}.png", 9, f"v{images[n]}"), f"{n:02d}.png") for n in sorted(images)]


def planned_rows(output: Path, images: dict[int, int]) -> Iterator[LooseSpan]:
    place = Place(str(output))
    rows = Planner(place, Ledger.load(place), PlanSettings(SIZE, Wanted(frozenset()))).rows(sources(images))
    return (row for row in rows if isinstance(row, LooseSpan))


def finish(output: Path, row: LooseSpan) -> None:
    """The span's file, as far as planning is concerned."""
    count = row.stop - row.start
    write_span(Place(str(output)), EMPTY, SpanFacts(row.name, "", row.version, 0, count, count), BOUND)


def planned(output: Path) -> dict[str, list[str]]:
    """Every uri with the spans that list it."""
    parts = files.listing(Place(str(output))).parts
    found: dict[str, list[str]] = {}
    for part in parts:
        if not part_file.read_part(part)[1]:
            for row in part_file.read_images(part).to_pylist():
                found.setdefault(row["uri"], []).append(row["span"])
    return found


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_each_image_is_in_one_span_however_the_source_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[dict[int, int], int, bool]]
) -> None:
    monkeypatch.setattr(span_size, "PIECES", 2)
    monkeypatch.setattr(loose, "FIRST", 3)
    monkeypatch.setattr(planner, "CHUNK", 7)
    output, versions = tmp_path / str(next(COUNT)), dict[str, str]()
    for images, seen, finishes in steps:
        rows = list(itertools.islice(planned_rows(output, images), seen))
        for row in rows if finishes else ():
            finish(output, row)
        versions |= {source.entry.uri: source.entry.version for source in sources(images)}
        assert all(len(spans) == 1 for spans in planned(output).values())
    last = {n: int(version[1:]) for n in range(41) if (version := versions.get(f"/in/{n:02d}.png"))}
    todo = {row.name: row for row in planned_rows(output, last)}
    assert set(planned(output)) == set(versions)
    assert all(len(spans) == 1 for spans in planned(output).values())
    done = {path.stem for path in (output / "data").glob("*.parquet")}
    assert todo.keys() | done == {span for spans in planned(output).values() for span in spans}
    for row in todo.values():
        finish(output, row)
    assert list(planned_rows(output, last)) == []
