"""Shards that may not be read for a while: they lose no row that they have, and get their own where none is cut off."""

import io
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.source.tar import Tar
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.test_read_on import entries, spans
from tests.pipeline.test_same_images import FLAGS, IMAGES, Cut, names


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return make_tar(tmp_path / "in/s.tar", [(name, png(n)) for n, name in enumerate(IMAGES)])


def closed(monkeypatch: pytest.MonkeyPatch, *args: Any, images: int = 0, **flags: Any) -> int:
    """The exit code of a run in which the storage gives just so many images of the shard; it says whose are missing."""
    with monkeypatch.context() as patched:
        patched.setattr(Tar, "open", lambda _, shard: io.BufferedReader(Cut(shard.uri, images * 1024), 512))
        try:
            return run_here(*args, "brightness", **{**FLAGS, **flags})
        except PipelineError as error:
            failure = error
    assert str(failure).endswith(f"images of {args[0]} are missing: can it be read?")
    return failure.exit_code


@pytest.mark.parametrize("images", [6, 8])
@pytest.mark.parametrize("lost", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize("flags", [{}, {"retry_failed": True}, {"unreadable": "row"}])
def test_a_shard_that_is_refused_for_a_while_loses_no_row(
    flags: dict[str, Any],
    lost: tuple[int, ...],
    images: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    members = [(name, png(n) if n != 1 else b"damaged") for n, name in enumerate(IMAGES[:images])]
    shard, output = make_tar(tmp_path / "in/s.tar", members), tmp_path / "out"
    assert run_here(shard, output, "brightness", **FLAGS) == 0
    wanted = rows(output)
    there = spans(output)
    for number in lost:
        there[number].unlink()
    left = {path: path.read_bytes() for path in spans(output)[1:]}
    is_behind_a_gap = lost == (0,)
    capsys.readouterr()
    assert closed(monkeypatch, shard, output, **flags) == (1 if is_behind_a_gap else 0)
    assert ("nothing to do" in capsys.readouterr().out) == (not lost and "retry_failed" not in flags)
    assert (str(shard) in rows(output)["uri"].to_pylist()) == (bool(lost) and not is_behind_a_gap)
    assert {path: path.read_bytes() for path in left} == left
    assert run_here(shard, output, "brightness", **{**FLAGS, **flags, "retry_failed": True}) == 0
    assert rows(output).equals(wanted)


def test_a_refused_shard_does_not_cut_off_finished_spans(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short span in the middle, as a run leaves it that is stopped in it: it gets no row of the shard's own."""
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    spans(tmp_path / "out")[1].unlink()
    assert closed(monkeypatch, shard, tmp_path / "out", images=6) == 1
    last = spans(tmp_path / "out")[2].read_bytes()
    for images in (6, 7, 0):
        assert closed(monkeypatch, shard, tmp_path / "out", images=images, retry_failed=True) == 1
        assert str(shard) not in rows(tmp_path / "out")["uri"].to_pylist()
        assert (len(entries(tmp_path / "out")), spans(tmp_path / "out")[2].read_bytes()) == (1, last)
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert names(tmp_path / "out") == IMAGES


def test_a_limit_is_lifted_while_the_shard_is_refused(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, limit=6) == 0
    assert closed(monkeypatch, shard, tmp_path / "out") == 0
    assert names(tmp_path / "out") == [str(shard), *IMAGES[:6]]  # by uri
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert names(tmp_path / "out") == IMAGES


def test_a_span_in_the_middle_is_not_ended_by_the_shards_own_row(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    spans(tmp_path / "out")[1].unlink()
    assert closed(monkeypatch, shard, tmp_path / "out", images=7) == 1
    assert str(shard) not in rows(tmp_path / "out")["uri"].to_pylist()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == IMAGES


@pytest.mark.parametrize("forgets_entries", [False, True])
def test_a_span_that_was_stopped_says_where_to_go_on(
    forgets_entries: bool, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is short, and no end of its shard, also where the plan's entries are removed."""
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    spans(tmp_path / "out")[-1].unlink()
    assert closed(monkeypatch, shard, tmp_path / "out", images=10) == 0
    assert names(tmp_path / "out") == [str(shard), *IMAGES[:9]]  # by uri
    for entry in entries(tmp_path / "out") if forgets_entries else ():
        entry.unlink()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert names(tmp_path / "out") == IMAGES


def test_a_refusal_at_the_border_of_a_finished_span_leaves_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shard's own row had stood there before the image that begins it."""
    members = [(name, png(n) if n != 1 else b"damaged") for n, name in enumerate(IMAGES[:8])]
    shard, output = make_tar(tmp_path / "in/s.tar", members), tmp_path / "out"
    assert closed(monkeypatch, shard, output, images=5) == 0
    assert names(output) == [str(shard), *IMAGES[:4]]  # by uri
    assert run_here(shard, output, "brightness", **FLAGS, retry_failed=True) == 0
    wanted = rows(output)
    assert closed(monkeypatch, shard, output, retry_failed=True) == 0
    assert rows(output)["uri"].equals(wanted["uri"])
    assert run_here(shard, output, "brightness", **FLAGS, retry_failed=True) == 0
    assert rows(output).equals(wanted)


@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("images", [5, 6, 9])
@pytest.mark.parametrize("has_entry", [True, False])
def test_what_is_finished_behind_a_gap_stays_while_the_shard_is_refused(
    has_entry: bool, images: int, lost: int, shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a kill leaves it: writers are not in order."""
    output = tmp_path / "out"
    assert run_here(shard, output, "brightness", **FLAGS) == 0
    wanted = rows(output)
    there = spans(output)
    for path in [there[lost], *entries(output)[: not has_entry]]:
        path.unlink()
    last = there[2].read_bytes()
    for retry_failed in (False, True):
        closed(monkeypatch, shard, output, images=images, retry_failed=retry_failed)
        assert there[2].read_bytes() == last
    assert run_here(shard, output, "brightness", **FLAGS, retry_failed=True) == 0
    assert rows(output).equals(wanted)


def test_what_another_run_has_finished_behind_the_shards_own_row_stays(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two runs leave it that are killed before the shard's entry, of which one may not read it."""
    output = tmp_path / "out"
    assert run_here(shard, tmp_path / "other", "brightness", **FLAGS) == 0
    assert closed(monkeypatch, shard, output, images=7) == 0
    assert str(shard) in rows(output)["uri"].to_pylist()
    entries(output)[0].unlink()
    shutil.copy(spans(tmp_path / "other")[2], output / "data")
    assert run_here(shard, output, "brightness", **FLAGS) == 0
    assert names(output) == IMAGES


def test_the_way_out_for_a_shard_that_nobody_may_read_again(
    shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/operations.md says."""
    output = tmp_path / "out"
    assert run_here(shard, output, "brightness", **FLAGS) == 0
    spans(output)[1].unlink()
    assert closed(monkeypatch, shard, output) == 1
    entries(output)[0].unlink()
    spans(output)[1].unlink()  # the one behind
    assert closed(monkeypatch, shard, output) == 0
    assert names(output) == [str(shard), *IMAGES[:4]]  # by uri
