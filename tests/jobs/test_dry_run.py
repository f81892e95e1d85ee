"""`--dry-run` says what would be done, or why it cannot be, and leaves no trace."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import run_job, tree_bytes

FLAGS = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--local"]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dry") / "labels"
    assert run_here(DIGITS / "shards", output) == 0
    return output


def test_it_predicts_and_writes_nothing(output: Path, tmp_path: Path) -> None:
    done = run_job("label.py", *FLAGS, "--output", tmp_path / "out", "--dry-run", code=0)
    assert not list(tmp_path.iterdir())
    assert "64 images tried" in done.stdout
    assert "about 360 images" in done.stdout
    files, rows = re.search(r"files +(\d+) of up to (\d+) rows", done.stdout).groups()  # type: ignore[union-attr]
    assert int(files) == len(list((output / "data").iterdir()))
    assert int(files) * int(rows) >= 360
    assert "finished" not in done.stdout


def test_it_says_what_is_there_already_and_leaves_it_alone(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree_bytes(output)
    assert run_here(DIGITS / "shards", output, dry_run=True) == 0
    said = capsys.readouterr().out
    assert f"finished 360 images in 12 files of {output}: a run skips what has not changed" in said
    assert re.search(r"time +0:00:00 for 0 images", said)
    assert run_here(DIGITS / "shards", output, dry_run=True, overwrite=True) == 0
    said = capsys.readouterr().out
    assert re.search(r"time +0:00:\d\d for 360 images", said)
    assert "finished" not in said
    assert tree_bytes(output) == before


def test_it_counts_what_a_run_would_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def predicted(*sources: str, **flags: Any) -> int:
        assert run_here([tmp_path / source for source in sources], tmp_path / "out", **FEW, dry_run=True, **flags) == 0
        found = re.search(r"time +\S+ for ([\d,]+) images", capsys.readouterr().out)
        assert found is not None
        return int(found[1])

    FEW: dict[str, Any] = {"task": "brightness", "span_size": 4, "batch_size": 4, "max_failed": 1.0}
    for folder, first in (("one", 0), ("two", 50)):
        make_tar(tmp_path / folder / "s.tar", [(f"{n}.png", png(n)) for n in range(first, first + 7)])
        for number in range(first, first + 9):
            (tmp_path / folder / f"{number}.png").write_bytes(png(number))
    (tmp_path / "one/0.png").write_bytes(b"broken")
    assert predicted("one") == 16
    assert run_here(tmp_path / "one", tmp_path / "out", **FEW) == 0
    assert [predicted("one"), predicted("two"), predicted("one", "two")] == [0, 16, 16]
    assert [predicted("two", limit=20), predicted("two", limit=16), predicted("one", retry_failed=True)] == [4, 0, 1]
    assert predicted("one", overwrite=True) == 16
    (tmp_path / "one/1.png").write_bytes(png(200))
    next((tmp_path / "out/data").glob("s-*")).unlink()
    assert predicted("one") == 1 + 7
    assert run_here(tmp_path / "one", tmp_path / "out", **FEW) == 0
    assert predicted("one") == 0


def test_it_refuses_what_a_run_would_refuse(output: Path, tmp_path: Path) -> None:
    before = tree_bytes(output)
    with pytest.raises(ConfigError, match="belongs to a run with exact = false, this command has true"):
        run_here(DIGITS / "shards", output, exact=True, dry_run=True)
    assert tree_bytes(output) == before
    with pytest.raises(ConfigError, match="holds no image and no shard"):
        run_here(tmp_path, output, dry_run=True)


def source_line(capsys: pytest.CaptureFixture[str]) -> tuple[int, int, int]:
    """Images of the source, of how many shards these were counted in, of how many."""
    found = re.search(r"about ([\d,]+) images, by what ([\d,]+) of ([\d,]+) shards hold", capsys.readouterr().out)
    assert found is not None
    images, opened, shards = (int(number.replace(",", "")) for number in found.groups())
    return images, opened, shards


@pytest.mark.parametrize("photos_first", [True, False])
def test_shards_of_each_folder_stand_for_those_there_alone(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], photos_first: bool
) -> None:
    files = sorted(photos.iterdir())
    for number in range(4):
        chosen = files[8 * number : 8 * number + 8]
        make_tar(tmp_path / f"photos/{number}.tar", [(file.name, file.read_bytes()) for file in chosen])
    make_tar(tmp_path / "tiny/empty.tar", [("read.me", b"")])
    make_tar(tmp_path / "tiny/many.tar", [(f"{number}.png", png(number % 256)) for number in range(1500)])
    folders = [tmp_path / "photos", DIGITS / "shards", tmp_path / "tiny"]
    source = folders if photos_first else folders[::-1]
    assert run_here(source, tmp_path / "out", "brightness", dry_run=True) == 0
    images, opened, shards = source_line(capsys)
    assert images == pytest.approx(32 + 360 + 1500, rel=0.05)
    assert (opened, shards) == (4, 6 + len(list((DIGITS / "shards").glob("*.tar"))))


def test_few_shards_are_opened_of_many_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(30):
        make_tar(tmp_path / f"in/{number}/s.tar", [(f"{n}.png", png(n)) for n in range(20)])
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", dry_run=True) == 0
    assert source_line(capsys) == (600, 8, 30)


def test_no_file_has_images_of_two_shards(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(5):
        make_tar(tmp_path / f"in/{number}.tar", [(f"{n}.png", png(n)) for n in range(3)])
    for limit, files in ((None, 5), (7, 3)):
        assert run_here(tmp_path / "in", tmp_path / "out", "brightness", dry_run=True, limit=limit) == 0
        assert f"files    {files} of up to 3 rows" in capsys.readouterr().out


def test_it_estimates_what_it_does_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a large shard the first images stand for all."""
    images = pa.array([png(3) + bytes(1000)] * 20_000)
    pq.write_table(pa.table({"image": images}), tmp_path / "s.parquet", compression="none", use_dictionary=False)
    assert run_here(tmp_path / "s.parquet", tmp_path / "out", dry_run=True) == 0
    found = re.search(r"about ([\d,]+) images", capsys.readouterr().out)
    assert found is not None
    assert 18_000 < int(found[1].replace(",", "")) < 22_000
