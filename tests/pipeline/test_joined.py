"""Two runs on one output share the work: what the other has finished is not done again."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.reader import Reader
from pipeline.output.ledger import Ledger
from pipeline.output.receipts import Receipt
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.rows import LooseSpan
from pipeline.request import begin, checked
from pipeline.run import SCATTER, scattered
from pipeline.spec import Device, JobSpec
from tests.flow import DIGITS, Brightness, png, run_here

FLAGS = {"span_size": 2, "batch_size": 2}


@pytest.fixture
def planned(tmp_path: Path) -> tuple[JobSpec, list[LooseSpan]]:
    """Spans that a run has planned, all of which another has finished since."""
    (tmp_path / "in").mkdir()
    for number in range(6):
        (tmp_path / f"in/{number}.png").write_bytes(png(number))
    config = RunConfig((str(tmp_path / "in"),), str(tmp_path / "out"), str(DIGITS / "model"), dtype="float32", **FLAGS)
    request = checked(config, Brightness())
    spec = begin(request, lambda: Device("cpu", "", "float32", 2))
    planner = Planner(spec.place, Ledger.load(spec.place), PlanSettings(spec.bound.span_size, spec.wanted))
    rows = [row for row in planner.rows(request.sources.listing()) if isinstance(row, LooseSpan)]
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", **FLAGS) == 0
    return spec, rows


def test_loose_images_that_another_run_has_finished_are_not_read(planned: tuple[JobSpec, list[LooseSpan]]) -> None:
    spec, rows = planned
    assert len(rows) == 3
    for row in rows:
        (found,) = Reader(spec).spans(row)
        assert isinstance(found, Receipt)
        assert (found.images, found.facts.name, found.facts.images, found.facts.failed) == (0, row.name, 2, 0)


def test_those_of_another_version_are(planned: tuple[JobSpec, list[LooseSpan]]) -> None:
    spec, rows = planned
    for row in (LooseSpan(**{**vars(rows[0]), "version": "another"}),
                LooseSpan(**{**vars(rows[0]), "forgotten": ("file:///gone.png",)})):  # fmt: skip
        assert isinstance(next(iter(Reader(spec).spans(row))), OpenSpan)
    storage.delete(spec.place.span_file(rows[0].name))
    assert isinstance(next(iter(Reader(spec).spans(rows[0]))), OpenSpan)


@pytest.mark.parametrize("count", [0, 1, 7, 3 * SCATTER])
def test_a_run_that_joins_takes_the_same_rows_in_another_order(count: int) -> None:
    rows = [LooseSpan(str(number), "", "", 0, 1) for number in range(count)]
    one, other = (list(scattered(iter(rows), run)) for run in ("a", "b"))
    by_name = {row.name for row in rows}
    assert {row.name for row in one} == {row.name for row in other} == by_name
    assert len(one) == count
    assert one == list(scattered(iter(rows), "a"))
    if count > 1:
        assert len([row for row, same in zip(one, rows, strict=True) if row == same]) < count
