"""How many images a span has, and that this does not depend on which run has planned what."""

import itertools
import shutil
from pathlib import Path

import pytest

from pipeline import request
from pipeline.config import RunConfig
from pipeline.engine.loading import Device
from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan import files, part_file
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.span_size import auto_span_size, images_in, loose_span_sizes, span_size_at
from pipeline.source.item import Wanted
from pipeline.source.kinds import LooseImage, Shard
from pipeline.storage import Entry, stat
from tests.flow import DIGITS, TASKS, make_tar
from tests.proxied import noise

PIXELS = 3 * 224 * 224
CPU = Device("cpu", "CPU", "float32", 32)


@pytest.mark.parametrize(
    ("least", "planned", "images"),
    [(32, 0, 32), (32, 16_383, 32), (32, 16_384, 64), (32, 100_000, 384), (32, 10**9, 1760),
     (256, 0, 256), (256, 131_071, 256), (256, 131_072, 512), (256, 10**9, 1536)],
)  # fmt: skip
def test_a_span_has_a_256th_of_the_images_before_it(least: int, planned: int, images: int) -> None:
    assert span_size_at(auto_span_size(PIXELS, least, 0), planned) == images


def test_spans_of_large_images_stay_below_their_bytes() -> None:
    assert auto_span_size(3 * 4000 * 4000, 32, None) == SpanSize.fixed(5)


def test_a_given_size_is_that_of_every_span() -> None:
    assert list(itertools.islice(loose_span_sizes(SpanSize.fixed(7), 10**6), 3)) == [7, 7, 7]


def test_images_in_shards_are_reckoned_from_the_first(tmp_path: Path) -> None:
    folder = [make_tar(tmp_path / f"{letter}.tar", [(f"{n}.png", noise(n)) for n in range(150)]) for letter in "ab"]
    shards = [Shard(entry, "tar") for path in folder if (entry := stat(str(path)))]
    packed = sum(path.stat().st_size for path in folder)
    assert images_in(shards, Wanted(frozenset({"png"}))) == pytest.approx(packed / len(noise(1)), rel=0.02)


def bound_size(source: Path, output: Path, **flags: int) -> SpanSize:
    config = RunConfig((str(source),), str(output), str(DIGITS / "model"), local=True, **flags)
    return request.propose(request.checked(config, TASKS["label"]()), lambda: CPU).bound.span_size


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"batch_size": 33}, 1), ({"batch_size": 32}, 0), ({"batch_size": 33, "span_size": 33}, 0), ({"span_size": 7}, 0)],
)
def test_batches_that_are_larger_than_spans_are_warned_of(
    flags: dict[str, int], said: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bound_size(DIGITS / "shards", tmp_path / "out", **flags)
    line = (
        "--batch-size 33: spans begin at 32 images, which no batch crosses, so the rest is padding: give --span-size 33"
    )
    assert capsys.readouterr().err.count(line) == said


def test_more_than_a_thousand_shards_have_the_largest_spans(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in/0000.tar", [("a.png", noise(1))])
    for number in range(1, 1000):
        shutil.copy(shard, tmp_path / f"in/{number:04d}.tar")
    assert bound_size(tmp_path / "in", tmp_path / "out").shard == 32
    shutil.copy(shard, tmp_path / "in/1000.tar")
    found = bound_size(tmp_path / "in", tmp_path / "out")
    assert found.shard == found.most > 32
    assert bound_size(tmp_path / "in", tmp_path / "out", span_size=5) == SpanSize.fixed(5)


def images(count: int) -> list[LooseImage]:
    return [LooseImage(Entry(f"/in/{number:06d}.png", 9, "v"), f"{number:06d}.png") for number in range(count)]


def spans(output: Path) -> list[tuple[str, int]]:
    """Names and images of all planned spans, in order."""
    parts = files.listing(Place(str(output))).parts
    return [(span.name, span.images) for part in parts for span in part_file.read_part(part)[0]]


def test_spans_are_the_same_whatever_run_has_planned_them(tmp_path: Path) -> None:
    source, size = images(30_000), auto_span_size(PIXELS, 32, 0)
    for stops in ([], [1], [40, 300, 2], [600]):
        output = tmp_path / f"out{stops}"
        for rows in [*stops, None]:  # so many rows a run lives to see
            planner = Planner(Place(str(output)), Ledger(Place(str(output))), PlanSettings(size, Wanted(frozenset())))
            list(itertools.islice(planner.rows(iter(source)), rows))
        assert spans(output) == spans(tmp_path / "out[]")
    assert [images for _, images in spans(output)][511:513] == [32, 64]


def test_new_images_go_on_at_the_size_that_is_due(tmp_path: Path) -> None:
    size, place = SpanSize(4, 4, 64), Place(str(tmp_path))
    for count in (1030, 2600):
        list(Planner(place, Ledger(place), PlanSettings(size, Wanted(frozenset()))).rows(images(count)))
    found = [images for _, images in spans(tmp_path)]
    assert found[:258] == [4] * 257 + [2]  # the first run has not filled the last one
    assert sum(found) == 2600
    assert found[-2:] == [8, 6]


def test_rows_come_while_the_source_is_listed(tmp_path: Path) -> None:
    source = iter(images(10_000))
    settings = PlanSettings(auto_span_size(PIXELS, 32, 0), Wanted(frozenset()))
    next(Planner(Place(str(tmp_path)), Ledger(Place(str(tmp_path))), settings).rows(source))
    assert len(list(source)) >= 8_000
