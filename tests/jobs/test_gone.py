"""What `--gone` takes for gone, and that a disk or bucket that is away forgets nothing."""

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError
from pipeline.forget import Forget, forget
from tests.flow import DIGITS, png
from tests.helpers import rows, run_job, tree_bytes
from tests.jobs.test_forget import audit_of, make_source, run_on, uris_of, verified
from tests.ports import free_ports
from tests.weed import Weed


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_source(tmp_path / "in")


def test_gone_forgets_what_is_not_there(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    for name in ("2.png", "t.parquet"):
        (source / name).unlink()
    with pytest.raises(ConfigError, match="7 of 27 images are gone, more than --max-gone"):
        forget(Forget(str(output), None))
    assert not list((output / "plan").glob("forgotten-*"))
    before = tree_bytes(output)
    assert forget(Forget(str(output), None, max_gone=0.5, dry_run=True)) == 0
    assert "images that would be forgotten: 7" in capsys.readouterr().out
    assert tree_bytes(output) == before
    assert forget(Forget(str(output), None, max_gone=0.5)) == 0
    assert len(uris_of(output)) == 20
    assert forget(Forget(str(output), None)) == 0
    assert run_on(source, output) == 0
    assert "planned 27 = ok 20 + failed 0 + forgotten 7" in audit_of(output)
    verified(output, forgotten=7)


def test_a_list_that_names_a_forgotten_image_still(source: Path, tmp_path: Path) -> None:
    listed, output = tmp_path / "list.txt", tmp_path / "out"
    listed.write_text("".join(f"in/{n}.png\n" for n in range(10)))
    assert run_on(listed, output) == 0
    (source / "2.png").unlink()
    assert forget(Forget(str(output), None)) == 0
    assert run_on(listed, output) == 0
    assert "ok 9 + failed 0 + forgotten 1" in audit_of(output)


def test_an_unmounted_disk_forgets_nothing(source: Path, tmp_path: Path) -> None:
    (source / "disk").mkdir()
    (source / "disk/x.png").write_bytes(png(9))
    output = tmp_path / "out"
    assert run_on(source, output) == 0
    os.unlink(source / "disk/x.png")
    with pytest.raises(ConfigError, match="disk is not there or empty"):
        forget(Forget(str(output), None))
    for gone in ("moved", "empty"):
        shutil.move(source, tmp_path / gone)
        if gone == "empty":
            source.mkdir()
        with pytest.raises(ConfigError, match="in is not there or empty"):
            forget(Forget(str(output), None, max_gone=1))
        shutil.rmtree(source, ignore_errors=True)
        shutil.move(tmp_path / gone, source)
    assert len(rows(output)) == 28


@pytest.fixture
def bucket(weed: Weed) -> Iterator[Weed]:
    for number in range(10):
        weed.fs().pipe_file(f"inb/forget/{number}.png", png(number))
    yield weed
    weed.fs().rm("inb/forget", recursive=True)


@pytest.mark.usefixtures("s3_env")
def test_gone_in_a_bucket_and_a_bucket_that_is_gone(bucket: Weed, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert run_on("s3://inb/forget/", output) == 0
    bucket.fs().rm_file("inb/forget/7.png")
    assert forget(Forget(str(output), None)) == 0
    assert len(rows(output)) == 9
    part = next((output / "plan").glob("part-*"))
    named = pq.read_table(part)
    moved = [uri.replace("s3://inb/", "s3://nobucket/") for uri in named["uri"].to_pylist()]
    kept = named.set_column(0, "uri", pa.array(moved)).replace_schema_metadata(named.schema.metadata)
    sink = io.BytesIO()
    pq.write_table(kept, sink)
    part.write_bytes(sink.getvalue())
    with pytest.raises(ConfigError, match="s3://nobucket/forget"):
        forget(Forget(str(output), None, max_gone=1))


def test_a_storage_that_is_away_is_said_at_once(bucket: Weed, tmp_path: Path) -> None:
    sources, output = ["--input", "s3://inb/forget/", "--model", DIGITS / "model"], tmp_path / "out"
    run_job("label.py", *sources, "--output", output, "--local", env=bucket.env, code=0)
    away = bucket.env | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_ports(1)[0]}"}
    done = run_job("forget.py", output, "--gone", env=away, timeout=120, code=2)
    assert "s3://inb/forget cannot be listed" in done.stderr
