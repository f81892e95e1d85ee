"""Remote images that a list names have no version there: neither with it nor without is one taken for changed."""

from pathlib import Path

import pytest

from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan import files, part_file
from pipeline.plan.forgotten import Forgetting, write_part
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.source.item import Wanted
from pipeline.source.kinds import UNKNOWN_VERSION, LooseImage
from pipeline.storage import Entry

URI = "s3://bucket/photos/a.png"
FOUND, NAMED = (
    LooseImage(Entry(URI, 9, "etag"), "a.png"),
    LooseImage(Entry(URI, 0, UNKNOWN_VERSION), "a.png", '{"cls": "7"}'),
)


def plan(place: Place, *images: LooseImage) -> list[tuple[str, str]]:
    """What the plan has, part by part, once these were listed: each image's version, and the values beside it."""
    planner = Planner(place, Ledger.load(place), PlanSettings(SpanSize.fixed(4), Wanted(frozenset(), keep=("cls",))))
    list(planner.rows(iter(images)))
    parts = [part_file.read_images(part).to_pylist() for part in files.listing(place).parts]
    return [(row["version"], row.get("kept") or "") for part in parts for row in part]


@pytest.mark.parametrize("images", [(FOUND, NAMED), (NAMED, FOUND)])
def test_of_two_inputs_one_has_the_version_and_the_other_the_values(
    images: tuple[LooseImage, ...], tmp_path: Path
) -> None:
    place = Place(str(tmp_path))
    assert plan(place, *images) == [("etag", '{"cls": "7"}')]
    for again in (images, (FOUND,), (NAMED,), images[::-1]):
        assert plan(place, *again) == [("etag", '{"cls": "7"}')]


def test_what_a_list_named_first_is_done_once_more_in_the_version_that_a_folder_has(tmp_path: Path) -> None:
    place = Place(str(tmp_path))
    assert [version for version, _ in plan(place, NAMED)] == [UNKNOWN_VERSION]
    for again in (FOUND, NAMED, FOUND):
        assert [version for version, _ in plan(place, again)] == [UNKNOWN_VERSION, "etag"]


def test_what_was_forgotten_without_a_version_stays_forgotten(tmp_path: Path) -> None:
    """Whether the version that a folder has is a new one nobody can tell."""
    place = Place(str(tmp_path))
    plan(place, NAMED)
    planner = Planner(place, Ledger.load(place), PlanSettings(SpanSize.fixed(4), Wanted(frozenset(), keep=("cls",))))
    planner.learn()
    write_part(place, 0, [Forgetting(URI, UNKNOWN_VERSION, next(iter(planner.loose.spans)))])
    plan(place, FOUND)
    planner.learn()
    assert planner.forgotten.has(URI, planner.loose.latest)
