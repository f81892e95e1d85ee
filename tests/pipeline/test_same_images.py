"""What counts as an image may change, by a flag or a plugin: an output goes on as it began, none is lost or twice."""

import io
from pathlib import Path
from typing import Any

import pytest

from pipeline.compact import compact
from pipeline.output.place import Place
from pipeline.plan.verify import verify
from pipeline.source.tar import Tar
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.source.test_archives import make_tar_gz, make_zip
from tests.pipeline.source.test_passed import HEIC

MAKERS = {"s.tar": make_tar, "s.tgz": make_tar_gz, "s.zip": make_zip}
FLAGS: dict[str, Any] = {"span_size": 4, "batch_size": 4, "max_failed": 1.0}
IMAGES = [f"{n:02d}.png" for n in range(12)]


@pytest.fixture(params=MAKERS)
def shard(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Twelve images, of which the sixth is damaged, and a photo between the fifth and the sixth."""
    members = [(name, png(n)) for n, name in enumerate(IMAGES)]
    members[5] = ("05.png", b"damaged")
    return MAKERS[request.param](tmp_path / "in" / request.param, [*members[:5], ("04z.heic", HEIC), *members[5:]])


def counted(unreadable: str) -> list[str]:
    """The images of the shard, in a run with this flag."""
    return IMAGES if unreadable == "skip" else sorted([*IMAGES, "04z.heic"])


def names(output: Path) -> list[str]:
    found = verify(Place.of(str(output)))
    assert found.green, found
    return [uri.rpartition("#")[2] for uri in rows(output)["uri"].to_pylist()]


@pytest.mark.parametrize("before", ["skip", "row"])
def test_failed_rows_are_done_again_among_the_same_images(before: str, shard: Path, tmp_path: Path) -> None:
    after = "row" if before == "skip" else "skip"
    assert run_here(shard, tmp_path / "out", "brightness", unreadable=before, **FLAGS) == 0
    table = rows(tmp_path / "out")
    assert run_here(shard, tmp_path / "out", "brightness", unreadable=after, retry_failed=True, **FLAGS) == 0
    assert names(tmp_path / "out") == counted(before)
    assert rows(tmp_path / "out").equals(table)


@pytest.mark.parametrize("has_entry", [True, False])
@pytest.mark.parametrize("lost", [0, 1, 2])
@pytest.mark.parametrize("before", ["skip", "row"])
def test_a_shard_goes_on_with_the_images_that_it_began_with(
    before: str, lost: int, has_entry: bool, shard: Path, tmp_path: Path
) -> None:
    """As a kill leaves it: one span is not finished, whether the plan has the shard's entry or not."""
    output, after = tmp_path / "out", "row" if before == "skip" else "skip"
    assert run_here(shard, output, "brightness", unreadable=before, **FLAGS) == 0
    if not has_entry:
        (entry,) = (output / "plan").glob("shard-*")
        entry.unlink()
    sorted((output / "data").glob("*.parquet"))[lost].unlink()
    assert run_here(shard, output, "brightness", unreadable=after, **FLAGS) == 0
    assert names(output) == counted(before)


@pytest.mark.parametrize("before", ["skip", "row"])
def test_another_shard_has_the_images_that_the_output_began_with(
    before: str, shard: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runs at once would not agree else; and who asks for others is told."""
    output, after = tmp_path / "out", "row" if before == "skip" else "skip"
    assert run_here(shard, output, "brightness", unreadable=before, **FLAGS) == 0
    assert "as when the output was begun" not in capsys.readouterr().err
    members = [("a.png", png(1)), ("b.heic", HEIC)]
    make_tar(tmp_path / "in/t.tar", members)
    assert run_here(tmp_path / "in", output, "brightness", unreadable=after, **FLAGS) == 0
    are = "passed by" if before == "skip" else "images"
    assert f"more kinds are {are}, as when the output was begun" in capsys.readouterr().err
    assert names(output) == sorted([*counted(before), *[name for name, _ in members[: 1 + (before == "row")]]])


def test_what_pillow_reads_no_more_keeps_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.look.extensions", lambda: frozenset({".png", ".odd"}))
    members = [("a.png", png(1)), ("b.odd", b"damaged"), ("c.odd", png(3)), ("d.png", png(4))]
    shard = make_tar(tmp_path / "in/s.tar", members)
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    table = rows(tmp_path / "out")
    monkeypatch.setattr("pipeline.look.extensions", lambda: frozenset({".png"}))
    assert run_here(shard, tmp_path / "out", "brightness", retry_failed=True, **FLAGS) == 0
    assert rows(tmp_path / "out").equals(table)


@pytest.mark.parametrize(("before", "after"), [((".png",), (".png", ".odd")), ((".png", ".odd"), (".png",))])
def test_a_copy_with_pictures_has_those_of_the_images_that_counted(
    before: tuple[str, ...], after: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = [(f"{n:02d}.{kind}", png(n)) for n in range(6) for kind in ("bmp", "odd", "png")]
    shard = make_tar(tmp_path / "in/s.tar", samples)
    monkeypatch.setattr("pipeline.look.extensions", lambda: frozenset(before))
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    monkeypatch.setattr("pipeline.images.endings", lambda: frozenset(name.removeprefix(".") for name in after))
    assert compact(str(tmp_path / "out"), str(tmp_path / "copy"), 100, images=True).lost == 0


def test_an_image_behind_a_gap_is_found_under_its_name(tmp_path: Path) -> None:
    """The reader has looked at it before: it is the first one behind what it has just read."""
    members = [(name, png(n)) for n, name in enumerate(IMAGES)]
    members[4] = ("04.png", b"damaged")
    shard = make_tar(tmp_path / "in/s.tar", members)
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    wanted = rows(tmp_path / "out")
    min((tmp_path / "out/data").glob("*.parquet")).unlink()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert rows(tmp_path / "out").equals(wanted)


@pytest.mark.parametrize(("before", "size"), [("skip", 3), ("row", 2)])
def test_spans_that_end_within_a_sample(before: str, size: int, tmp_path: Path) -> None:
    """As a kill leaves it: of three images of a sample one counts for one of the two runs only."""
    output, after = tmp_path / "out", "row" if before == "skip" else "skip"
    samples = [
        (f"{n:02d}.{kind}", HEIC if kind == "heic" else png(n)) for n in range(6) for kind in ("bmp", "heic", "png")
    ]
    shard = make_tar(tmp_path / "in/s.tar", samples)
    assert run_here(shard, output, "brightness", unreadable=before, **{**FLAGS, "span_size": size}) == 0
    for entry in (output / "plan").glob("shard-*"):
        entry.unlink()
    for span in sorted((output / "data").glob("*.parquet"))[1:]:
        span.unlink()
    assert run_here(shard, output, "brightness", unreadable=after, **{**FLAGS, "span_size": size}) == 0
    assert names(output) == [name for name, _ in samples if before == "row" or not name.endswith("heic")]


class Cut(io.RawIOBase):
    """A file that cannot be read from a place on."""

    def __init__(self, path: str, end: int) -> None:
        self.file, self.end = open(path, "rb"), end  # noqa: SIM115 - closed with this

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, place: int, whence: int = 0) -> int:
        return self.file.seek(place, whence)

    def readinto(self, buffer: Any) -> int:
        if self.file.tell() >= self.end:
            raise PermissionError
        data = self.file.read(min(len(buffer), self.end - self.file.tell()))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def test_a_shard_that_could_not_be_read_on_is_read_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_tar(tmp_path / "in/s.tar", [(name, png(n)) for n, name in enumerate(IMAGES)])
    with monkeypatch.context() as patched:
        patched.setattr(Tar, "open", lambda _, shard: io.BufferedReader(Cut(shard.uri, 6 * 1024), 512))
        assert run_here(shard, tmp_path / "out", "brightness", **FLAGS) == 0
    assert str(shard) in rows(tmp_path / "out")["uri"].to_pylist()
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert names(tmp_path / "out") == IMAGES
    assert set(rows(tmp_path / "out")["status"].to_pylist()) == {"ok"}


def test_a_shard_that_is_read_less_far_keeps_the_rows_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = make_tar(tmp_path / "in/s.tar", [(name, png(n)) for n, name in enumerate(IMAGES)])

    def run_until(end: int, **flags: Any) -> dict[str, str]:
        with monkeypatch.context() as patched:
            patched.setattr(Tar, "open", lambda _, shard: io.BufferedReader(Cut(shard.uri, end), 512))
            assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, **flags) == 0
        table = rows(tmp_path / "out")
        return dict(zip(table["uri"].to_pylist(), table["status"].to_pylist(), strict=True))

    before = run_until(7 * 1024)
    assert len(before) > 5
    for end in (0, 5 * 1024):
        assert run_until(end, retry_failed=True) == before
    assert run_here(shard, tmp_path / "out", "brightness", **FLAGS, retry_failed=True) == 0
    assert names(tmp_path / "out") == IMAGES
