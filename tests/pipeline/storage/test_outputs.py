"""Outputs beyond folders and S3: what can hold one does, what cannot is refused before anything is written."""

from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import ConfigError
from tests.flow import DIGITS, png, run_here
from tests.helpers import run_job, tree_bytes

SHARDS = DIGITS / "shards"


def files(output: str) -> dict[str, bytes]:
    root = f"{output}/data/"
    return {entry.uri[len(root) :]: storage.read(entry.uri) for entry in storage.listing(root)}


def test_memory_holds_an_output(tmp_path: Path) -> None:
    flags = {"limit": 40, "span_size": 16}
    for output in (tmp_path / "out", "memory://flow/out"):
        assert run_here(SHARDS, output, **flags) == 0
    there = files("memory://flow/out")
    assert there == tree_bytes(tmp_path / "out/data")
    assert run_here(SHARDS, "memory://flow/out/", **flags) == 0  # finds all finished
    storage.delete(f"memory://flow/out/data/{next(iter(there))}")
    assert run_here(SHARDS, "memory://flow/out", **flags) == 0
    assert files("memory://flow/out") == there
    with pytest.raises(ConfigError, match="belongs to a run with span_size = 16, this command has 32"):
        run_here(SHARDS, "memory://flow/out", limit=40, span_size=32)
    assert run_here(SHARDS, "memory://flow/out", overwrite=True, limit=3) == 0
    assert len(files("memory://flow/out")) == 1


def test_memory_holds_a_source() -> None:
    storage.put("memory://source/in/a b#.png", png(1))
    storage.put("memory://source/in/deep/b.png", png(2))
    assert run_here("memory://source/in/", "memory://source/out", span_size=1) == 0
    assert run_here("memory://source/in/*/b.png", "memory://source/glob") == 0
    assert len(files("memory://source/out")) == 2
    assert len(files("memory://source/glob")) == 1


def test_a_memory_that_holds_other_things_is_left_alone() -> None:
    storage.put("memory://foreign/out/x", b"x")
    with pytest.raises(ConfigError, match=r"files that are not ours \(such as memory://foreign/out/x\)"):
        run_here(SHARDS, "memory://foreign/out")
    with pytest.raises(ConfigError, match="a part of its path is a file"):
        run_here(SHARDS, "memory://foreign/out/x")


@pytest.mark.parametrize("prefix", ["file://", "local://"])
def test_a_file_uri_is_a_path(prefix: str, tmp_path: Path) -> None:
    assert run_here(SHARDS, f"{prefix}{tmp_path}/out", limit=3) == 0
    assert list((tmp_path / "out/data").iterdir())
    assert storage.absolute(f"{prefix}{tmp_path}/out") == str(tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "match"),
    [
        ("foo://x/out", "no file system for foo:// .*not known"),
        ("adl://x/out", "no file system for adl:// .*install adlfs"),
        ("github://x/out", "no file system for github://"),
        ("hf://datasets/x/out", "hf:// cannot create a file only where there is none"),
        ("http://127.0.0.1:9/x/out", "http:// cannot create a file only where there is none"),
        ("memory://", "names no folder"),
        ("s3://", "names no bucket"),
    ],
)
def test_what_cannot_hold_an_output_is_refused(output: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        run_here(SHARDS, output)
    said = str(caught.value)
    assert said.startswith(f"--output {output}: ")
    assert "\n" not in said


@pytest.mark.parametrize("output", ["memory://x/out", "foo://x"])
def test_a_command_is_refused_in_one_sentence(output: str) -> None:
    done = run_job("label.py", "--input", SHARDS, "--output", output, "--model", DIGITS / "model", code=2)
    (line,) = done.stderr.strip().splitlines()
    assert f"--output {output}: " in line
    assert "Ray's workers do not share memory://" in line or "no file system for foo://" in line


@pytest.mark.parametrize("uri", ["foo://x/a.png", "adl://x/a.png"])
def test_an_image_without_a_file_system_is_a_row(uri: str, tmp_path: Path) -> None:
    assert "no file system" in str(storage.try_read(uri))
    with pytest.raises(ConfigError, match="no file system"):
        run_here(uri, tmp_path / "out")
