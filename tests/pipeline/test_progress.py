"""What a user sees meanwhile: what is planned counts, phases are told, and programs can read along."""

import json
import re
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.engine.engine import _RowsAhead
from pipeline.errors import StorageError
from pipeline.log import log_as_json, phase, say
from pipeline.output.receipts import Reading, Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import LooseSpan, ShardRef, UnreadShard
from pipeline.progress import STILL, Progress
from tests.flow import DIGITS, png, run_here
from tests.helpers import run_job
from tests.photos import jpegs
from tests.pipeline.source.test_archives import MAKERS

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ "
Told = pytest.CaptureFixture[str]


def span(start: int) -> LooseSpan:
    return LooseSpan(f"s{start}", "v", "part", start, start + 32)


def finished(progress: Progress, images: int, source: str = "") -> None:
    progress.advance(Receipt(SpanFacts("s", source, "v", 0, images, images), images, reading=Reading(images)))


def line(progress: Progress, capsys: Told) -> str:
    capsys.readouterr()
    progress.said = ""  # as if there were news
    progress.show()
    return re.sub(STAMP, "", capsys.readouterr().err).strip()


def test_a_line_says_what_is_waited_for(capsys: Told) -> None:
    progress = Progress("label")
    assert line(progress, capsys) == "label: listing: 0 so far"
    assert len(list(progress.listing(iter([object()] * 41_000)))) == 41_000  # type: ignore[list-item]
    assert line(progress, capsys) == "label: listing: 41,000 so far"
    progress.expect(span(0))
    assert line(progress, capsys) == "label: 0 of at least 32 images, waiting for the first (models are being loaded)"


def test_nothing_that_is_planned_in_part_is_a_hundred_per_cent(capsys: Told) -> None:
    progress = Progress("label")
    for start in (0, 32, 64):
        progress.expect(span(start))
    finished(progress, 32)
    finished(progress, 64)
    assert re.fullmatch(r"label: 96 of at least 96 images, [\d,.]+/s", line(progress, capsys))
    progress.expect(span(96))
    assert re.fullmatch(r"label: 96 of at least 128 images, .*/s, at least 0:00 left", line(progress, capsys))
    progress.planning = False
    assert re.fullmatch(r"label: 96 of 128 images \(75%\), .*/s, 0:00 left", line(progress, capsys))


def test_images_of_unread_shards_are_estimated(capsys: Told) -> None:
    progress = Progress("label")
    for name in ("a", "b"):
        progress.expect(UnreadShard(ShardRef(name, 100, "v", "tar", name)))
    assert line(progress, capsys) == "label: 0 of at least 2 shards, waiting for the first (models are being loaded)"
    progress.planning = False
    finished(progress, 50, "a")
    assert "50 of about 200 images (25%)" in line(progress, capsys)


@pytest.mark.parametrize("kind", ["s.zip", "s.parquet"])
def test_of_shards_whose_positions_are_no_bytes_the_images_are_estimated_about_right(
    tmp_path: Path, capsys: Told, kind: str
) -> None:
    photos = {f"{key}.jpg": content for key, _, content in jpegs(40, 120, 90)}
    (tmp_path / "in").mkdir()
    if kind == "s.parquet":
        pq.write_table(pa.table({"image": list(photos.values())}), tmp_path / "in" / kind)
    else:
        MAKERS[kind](tmp_path / "in" / kind, list(photos.items()))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", span_size=10) == 0
    totals = re.findall(r"brightness: \d+ of (?:about|at least) ([\d,]+) images", capsys.readouterr().err)
    assert totals, "a line after the first span"
    assert all(28 <= int(total.replace(",", "")) <= 60 for total in totals), totals


def test_the_same_line_is_not_said_all_the_time(capsys: Told) -> None:
    progress = Progress("label")
    for _ in range(2 * STILL):
        progress.show()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_rows_are_planned_before_they_are_worked_on() -> None:
    progress = Progress("label")

    def rows() -> "list[LooseSpan]":
        return [span(start) for start in range(0, 320, 32)]

    ahead = _RowsAhead(iter(rows()[:0]))
    assert ahead.take() is None
    assert ahead.take() is None

    def watched() -> "object":
        for row in rows():
            progress.expect(row)
            yield row
        progress.planning = False

    ahead = _RowsAhead(watched())  # type: ignore[arg-type]
    ahead.thread.join()
    assert (progress.total, progress.planning) == (320, False)  # and nobody has taken a row
    assert ahead.take() == span(0)
    ahead.close()


def test_what_planning_raises_reaches_whoever_waits() -> None:
    def rows() -> "object":
        yield span(0)
        raise StorageError("gone")

    ahead = _RowsAhead(rows())  # type: ignore[arg-type]
    assert ahead.take() == span(0)
    with pytest.raises(StorageError, match="gone"):
        ahead.take()
    assert ahead.take() is None


def test_a_plan_nobody_wants_any_more_ends() -> None:
    def rows() -> "object":
        while True:
            yield span(0)

    ahead = _RowsAhead(rows())  # type: ignore[arg-type]
    assert ahead.take() == span(0)
    ahead.close()
    ahead.thread.join(timeout=10)
    assert not ahead.thread.is_alive()


def test_long_phases_are_told_with_their_time(capsys: Told) -> None:
    with phase("resting"):
        pass
    assert capsys.readouterr().err == ""
    with phase("loading"):
        time.sleep(1.3)
    assert re.fullmatch(rf"{STAMP}loading\n{STAMP}loading: done in 1\.\d s\n", capsys.readouterr().err)


def test_lines_are_objects_where_programs_read_them(capsys: Told) -> None:
    log_as_json(True)
    try:
        say("hello", done=3)
    finally:
        log_as_json(False)
    told = json.loads(capsys.readouterr().err)
    assert (told["level"], told["message"], told["done"]) == ("info", "hello", 3)
    assert re.fullmatch(STAMP.strip(), told["time"])


def test_a_run_tells_programs_all(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for shade in range(3):
        (tmp_path / f"in/{shade}.png").write_bytes(png(shade))
    flags = ["--output", tmp_path / "out", "--model", DIGITS / "model", "--local", "--log-json"]
    done = run_job("label.py", "--input", tmp_path / "in", *flags, code=0)
    told = [json.loads(one) for one in done.stderr.splitlines()]
    progress = [one for one in told if "done" in one]
    assert (progress[-1]["task"], progress[-1]["done"], progress[-1]["total"]) == ("label", 3, 3)
    assert {one["level"] for one in told} == {"info"}
    wrong = run_job("label.py", "--input", tmp_path / "none", *flags, code=2)
    (error,) = [json.loads(one) for one in wrong.stderr.splitlines()]
    assert error["level"] == "error"
    assert "none does not exist" in error["message"]


def test_the_log_of_a_run_begins_every_line_with_the_time(tmp_path: Path, capsys: Told) -> None:
    assert run_here(DIGITS / "shards", tmp_path / "out", limit=40) == 0
    told = capsys.readouterr().err.splitlines()
    assert all(re.match(STAMP, one) for one in told)
    assert any(re.search(r"label: \d+ of (at least )?40 images", one) for one in told)
