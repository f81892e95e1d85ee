"""Shards that could not be read on: what is behind the fault is never lost, and the shard's own row never twice."""

import io
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.forget import Forget, forget
from pipeline.source.tar import Tar
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.source.test_archives import make_tar_gz
from tests.pipeline.source.test_passed import HEIC
from tests.pipeline.test_same_images import FLAGS, IMAGES, Cut, names


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return make_tar(tmp_path / "in/s.tar", [(name, png(n)) for n, name in enumerate(IMAGES)])


@pytest.fixture
def run_until(shard: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`run_until(images)`: a run in which the storage gives so many images of the shard."""

    def run(images: int, **flags: Any) -> None:
        with monkeypatch.context() as patched:
            end = images * 1024  # a header and a PNG
            patched.setattr(Tar, "open", lambda _, shard: io.BufferedReader(Cut(shard.uri, end), 512))
            assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, **flags) == 0
        assert str(shard) in rows(tmp_path / "out")["uri"].to_pylist()

    return run


def spans(output: Path) -> list[Path]:
    return sorted((output / "data").glob("*.parquet"))


def entries(output: Path) -> list[Path]:
    """Of the one shard, oldest first: there are fewer than ten."""
    return sorted((output / "plan").glob("shard-*"))


def begin_to_read_on(shard: Path, output: Path) -> None:
    """As a kill leaves `--retry-failed` that has told the plan that it reads on, and has written no span yet."""
    before = {path: path.read_bytes() for path in spans(output)}
    assert run_here(shard, output, "brightness", **FLAGS, retry_failed=True) == 0
    entries(output)[-1].unlink()
    assert len(entries(output)) == 2
    for path in spans(output):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)


@pytest.mark.parametrize("images", range(5, 9))
def test_what_is_behind_a_lost_last_span_is_read(
    images: int, shard: Path, run_until: Callable[..., None], tmp_path: Path
) -> None:
    """As a kill leaves it between a shard's entry and the last of its spans, once the storage is well again."""
    run_until(images)
    spans(tmp_path / "out")[-1].unlink()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == IMAGES


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("retry_failed", [False, True])
@pytest.mark.parametrize("images", range(5, 9))
def test_a_shard_that_is_read_on_is_not_taken_for_finished(
    images: int, retry_failed: bool, lost: bool, shard: Path, run_until: Callable[..., None], tmp_path: Path
) -> None:
    """As a kill leaves it: the span that had the shard's own row is written again, those behind it are not."""
    run_until(images)
    first = len(spans(tmp_path / "out"))
    if lost:
        spans(tmp_path / "out")[-1].unlink()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=not lost) == 0
    entries(tmp_path / "out")[-1].unlink()
    for span in spans(tmp_path / "out")[first:]:
        span.unlink()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=retry_failed) == 0
    assert names(tmp_path / "out") == IMAGES


def cut_tar_gz(folder: Path, images: int) -> Path:
    """An archive whose compression breaks off behind so many images."""
    members = [(f"{n}.png", png(n) + random.Random(n).randbytes(3000)) for n in range(8)]
    archive = make_tar_gz(folder / "s.tar.gz", members)
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * (images + 0.5) / 8)])
    return archive


def no_zip(folder: Path) -> Path:
    (folder / "s.zip").write_bytes(b"PK\3\4 no zip")
    return folder / "s.zip"


def no_parquet(folder: Path) -> Path:
    (folder / "s.parquet").write_bytes(b"PAR1 this is none PAR1")
    return folder / "s.parquet"


@pytest.mark.parametrize(
    "make", [lambda to: cut_tar_gz(to, 3), lambda to: cut_tar_gz(to, 2), no_zip, no_parquet],
    ids=["tar.gz, a whole span", "tar.gz", "zip", "parquet"],
)  # fmt: skip
def test_a_damaged_shard_has_one_row_of_its_own(make: Callable[[Path], Path], tmp_path: Path) -> None:
    """As a kill leaves it that came before the shard's entry."""
    (tmp_path / "in").mkdir()
    make(tmp_path / "in")
    make_tar(tmp_path / "in/a.tar", [("x.png", png(1))])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", **FLAGS) == 0
    before = names(tmp_path / "out")
    for entry in (tmp_path / "out/plan").glob("shard-s*"):
        entry.unlink()
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == before


def test_a_limit_right_before_the_damage(tmp_path: Path) -> None:
    shard = make_tar(tmp_path / "in/s.tar", [(name, png(n)) for n, name in enumerate(IMAGES)])
    shard.write_bytes(shard.read_bytes()[: 3 * 1024 + 520])
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, limit=3) == 0
    assert names(tmp_path / "out") == IMAGES[:3]
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == [str(shard), *IMAGES[:3]]  # by uri


def test_what_a_list_names_and_is_gone_keeps_its_rows(tmp_path: Path) -> None:
    """As where a disk is not there tonight."""
    for name in "ab":
        make_tar(tmp_path / f"in/{name}.tar", [(image, png(n)) for n, image in enumerate(IMAGES)])
    (tmp_path / "in/x.png").write_bytes(png(7))
    (tmp_path / "in/list.txt").write_text("a.tar\nb.tar\nx.png\n")
    assert run_here(tmp_path / "in/list.txt", tmp_path / "out", "brightness", **FLAGS) == 0
    before = rows(tmp_path / "out")
    for name in ("a.tar", "x.png"):
        (tmp_path / "in" / name).unlink()
    for retry_failed in (False, True):
        assert (
            run_here(tmp_path / "in/list.txt", tmp_path / "out", retry_failed=retry_failed, task="brightness", **FLAGS)
            == 0
        )
        assert rows(tmp_path / "out").equals(before)
    make_tar(tmp_path / "in/a.tar", [(image, png(50)) for image in IMAGES])
    assert run_here(tmp_path / "in/list.txt", tmp_path / "out", "brightness", **FLAGS) == 0
    again = rows(tmp_path / "out")
    assert again["uri"].equals(before["uri"])
    assert not again["brightness"].equals(before["brightness"])


def test_two_runs_read_a_shard_on(shard: Path, run_until: Callable[..., None], tmp_path: Path) -> None:
    """One has begun to, as the plan says, and the other finds the span as it was: it reads on too."""
    run_until(8)
    begin_to_read_on(shard, tmp_path / "out")
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == IMAGES


@pytest.mark.parametrize("forgets", [False, True])
def test_what_counts_no_more_stops_no_reading_on(forgets: bool, tmp_path: Path) -> None:
    """A span that --limit had cut short, with a photo that does not count, and is not found, when it is read on."""
    members = [(name, png(n)) for n, name in enumerate(IMAGES)]
    shard = make_tar(tmp_path / "in/s.tar", [*members[:2], ("01x.heic", HEIC), *members[2:]])
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, limit=3, unreadable="row") == 0
    if forgets:
        (tmp_path / "list.txt").write_text(f"{shard}#01x.heic")
        assert forget(Forget(str(tmp_path / "out"), str(tmp_path / "list.txt"))) == 0
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, unreadable="skip") == 0
    assert names(tmp_path / "out") == (IMAGES if forgets else sorted([*IMAGES, "01x.heic"]))


def test_a_shards_own_row_is_forgotten_while_it_is_read_on(
    shard: Path, run_until: Callable[..., None], tmp_path: Path
) -> None:
    run_until(6)
    begin_to_read_on(shard, tmp_path / "out")
    (tmp_path / "list.txt").write_text(str(shard))
    assert forget(Forget(str(tmp_path / "out"), str(tmp_path / "list.txt"))) == 0
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert names(tmp_path / "out") == IMAGES
