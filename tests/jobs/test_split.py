"""A cluster whose GPU nodes have few CPUs: reading, predicting and writing are steps of their own on its nodes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.flow import DIGITS, make_tar, png
from tests.helpers import rows, run_job, tree_bytes
from tests.models import save_dvae, save_masked
from tests.photos import make_photos
from tests.ray_head import RayHead, gpu_node_beside_cpus

SCENES = DIGITS.parent / "digits-seg"


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHead]:
    with gpu_node_beside_cpus() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Loose photographs, a damaged one among them, and shards, one of which ends too early."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "loose").mkdir()
    make_photos(folder / "loose", 40)
    (folder / "loose/broken.jpg").write_bytes(b"no picture")
    for shard in range(5):
        make_tar(folder / f"tars/{shard}.tar", [(f"{n:03d}.png", png(shard * 30 + n)) for n in range(30)])
    whole = (folder / "tars/4.tar").read_bytes()
    (folder / "tars/4.tar").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.mark.parametrize(
    "task", ["tokens", *(pytest.param(task, marks=pytest.mark.torture) for task in ("label", "segment"))]
)
def test_the_files_are_those_of_one_process(cluster: RayHead, source: Path, tmp_path: Path, task: str) -> None:
    """Whether a model takes one view of an image, two, or one of a size of its own."""
    flags: list[Any] = ["--dtype", "float32", "--span-size", 20, "--max-failed", 1]
    if task == "segment":
        flags += ["--input", SCENES / "shards", "--model", SCENES / "model", "--inference", "slide", "--limit", 50]
    else:
        flags += ["--input", source / "loose", source / "tars", "--batch-size", 8]
    if task == "tokens":
        flags += ["--model", save_masked(tmp_path / "masked"), "--tokenizer", save_dvae(tmp_path / "dvae", side=64)]
    elif task == "label":
        flags += ["--model", DIGITS / "model"]
    run_job(f"{task}.py", *flags, "--local", "--output", tmp_path / "one", code=0)
    on_cluster = ["--ray-address", cluster.address, "--output", tmp_path / "split"]
    done = run_job(f"{task}.py", *flags, *on_cluster, env=cluster.env, code=0)
    assert "1 GPU on 1 node, 1 CPU each, 2 CPUs on other nodes: split" in done.stderr
    assert "ok" in rows(tmp_path / "split")["status"].to_pylist()
    assert tree_bytes(tmp_path / "split/data") == tree_bytes(tmp_path / "one/data")
