"""However a source grows and a run is interrupted, every image is planned in exactly one span."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline import plan, plan_parts
from pipeline.ledger import Ledger
from pipeline.plan import Planner
from pipeline.source.naming import LooseImage
from pipeline.storage import Entry

COUNT = itertools.count()
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


def planner(output: Path, images: dict[int, int]) -> Planner:
    spec: Any = SimpleNamespace(output=str(output), span_size=3)
    return Planner(sources(images), spec, Ledger(str(output)), limit=None, retry_failed=False)  # type: ignore[arg-type]


def finish(output: Path, name: str) -> None:
    (output / "data").mkdir(parents=True, exist_ok=True)
    (output / "data" / f"{name}.parquet").write_bytes(b"")


def planned(output: Path) -> dict[str, list[str]]:
    """Every uri with the spans that list it."""
    parts, _ = plan_parts.listing(str(output))
    found: dict[str, list[str]] = {}
    for part in parts:
        if not plan_parts.read_part(part)[1]:
            for row in plan_parts.read_images(part).to_pylist():
                found.setdefault(row["uri"], []).append(row["span"])
    return found


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_each_image_is_in_one_span_however_the_source_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: list[tuple[dict[int, int], int, bool]]
) -> None:
    monkeypatch.setattr(plan, "PART_SPANS", 2)
    monkeypatch.setattr(plan, "PART_IMAGES", 1)
    monkeypatch.setattr(plan, "CHUNK", 7)
    monkeypatch.setattr(Ledger, "look", lambda *_: iter(()))  # footers of the empty files made here say nothing
    output, versions = tmp_path / str(next(COUNT)), dict[str, str]()
    for images, seen, finishes in steps:
        rows = list(itertools.islice(planner(output, images), seen))
        for row in rows if finishes else ():
            finish(output, row.name)
        versions |= {source.entry.uri: source.entry.version for source in sources(images)}
        assert all(len(spans) == 1 for spans in planned(output).values())
    last = {n: int(version[1:]) for n in range(41) if (version := versions.get(f"/in/{n:02d}.png"))}
    todo = {row.name for row in planner(output, last)}
    assert set(planned(output)) == set(versions)
    assert all(len(spans) == 1 for spans in planned(output).values())
    done = {path.stem for path in (output / "data").glob("*.parquet")}
    assert todo | done == {span for spans in planned(output).values() for span in spans}
    for name in todo:
        finish(output, name)
    assert list(planner(output, last)) == []
