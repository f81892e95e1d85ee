"""The same command in every mode: one process, Ray on this machine, a submitted job; local files and S3."""

import json
import re
import shlex
import warnings
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.engine import cluster
from tests.flow import DIGITS, run_here
from tests.helpers import DATA, rows, run_job, tree_bytes
from tests.models import save_dvae
from tests.outputs import newest_report
from tests.proxied import s3_client
from tests.ray_head import RayHead
from tests.weed import Weed

SCENES = DATA / "digits-seg"
FLAGS = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--keep", "cls", "--dtype", "float32"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("modes") / "local"
    assert run_here(DIGITS / "shards", output, keep=("cls",)) == 0
    return output


def right(table: pa.Table) -> int:
    return sum(a[0] == b for a, b in zip(table["labels"].to_pylist(), table["cls"].to_pylist(), strict=True))


def test_ray_writes_the_bytes_that_one_process_writes(local: Path, tmp_path: Path) -> None:
    done = run_job("label.py", *FLAGS, "--output", tmp_path / "out", "--workers", 2, code=0)
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(local / "data")
    assert right(rows(tmp_path / "out")) == 357
    assert "planned 360 = ok 360 + failed 0, missing 0, duplicates 0" in done.stdout
    report = json.loads(newest_report(tmp_path / "out").read_text())
    assert (report["mode"], report["device"]) == ("ray", "cpu")
    said = [line.partition(" ") for line in done.stderr.splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time) for time, _, _ in said)
    assert [text for _, _, text in said if "starting Ray on this machine: done in" in text]
    phases = ("label: ", "starting Ray on this machine", "loading the model")
    assert [text for _, _, text in said if not text.startswith(phases)] == []  # Ray keeps quiet


def test_rays_advice_to_programmers_is_kept_off_the_screen() -> None:
    """It comes where a run has fewer groups of rows than workers."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.resetwarnings()
        cluster.import_ray(verbose=False)
        for module in ("ray.data._internal.execution", "jobs.own"):
            warnings.warn_explicit(module, UserWarning, "file.py", 1, module=module)
    assert [str(one.message) for one in seen] == ["jobs.own"]


@pytest.mark.torture
@pytest.mark.parametrize(("task", "limit"), [("segment", 12), ("tokens", 6)])
def test_every_task_writes_on_a_cluster_what_one_process_writes(
    task: str, limit: int, ray_head: RayHead, tmp_path: Path
) -> None:
    """A task is sent to workers that know nothing of the job's own file."""
    source = (SCENES if task == "segment" else DIGITS) / "shards"
    model = SCENES / "model" if task == "segment" else save_dvae(tmp_path / "dvae")
    own = {"semantics": "original"} if task == "segment" else {}
    assert run_here(source, tmp_path / "one", task, model, limit=limit, **own) == 0
    flags = ["--input", source, "--model", model, "--limit", limit, "--dtype", "float32"]
    flags += [f"--{name}={value}" for name, value in own.items()]
    cluster = ["--ray-address", ray_head.address, "--workers", 1]
    run_job(f"{task}.py", *flags, *cluster, "--output", tmp_path / "ray", env=ray_head.env, code=0)
    assert set(rows(tmp_path / "ray")["status"].to_pylist()) == {"ok"}
    assert tree_bytes(tmp_path / "ray/data") == tree_bytes(tmp_path / "one/data")


def test_input_output_and_model_on_s3_in_one_process_and_as_a_job_on_gpu_nodes(
    weed: Weed, ray_head: RayHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The head has two CPUs and two GPUs, which are pretended: a worker for each of them."""
    weed.put_tree(DIGITS / "shards", "inb/digits")
    weed.put_tree(DIGITS / "model", "inb/model")
    flags = ["--input", "s3://inb/digits", "--model", "s3://inb/model/", "--keep", "cls", "--dtype", "float32"]
    env = weed.env | {"XDG_CACHE_HOME": str(tmp_path)}
    with s3_client(env, monkeypatch):
        assert run_here("s3://inb/digits", "s3://outb/local", model="s3://inb/model/", keep=("cls",)) == 0
    done = ray_head.submit("python", "jobs/label.py", *flags, "--output", "s3://outb/job", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray gives GPUs out, and torch finds none there" in done.stdout
    assert tree_bytes("outb/job/data", weed.fs()) == tree_bytes("outb/local/data", weed.fs())
    table = rows("outb/job", weed.fs())
    assert right(table) == 357
    assert table["uri"][0].as_py() == "s3://inb/digits/digits-00000.tar#0039.png"
    (report,) = (json.loads(weed.fs().cat_file(name)) for name in weed.fs().glob("outb/job/runs/*.json"))
    assert report["ray_submission_id"] in done.stdout
    assert str(report["ray_submission_id"]).startswith("raysubmit_")
    given = ["python", "jobs/label.py", *flags, "--output", "s3://outb/job"]
    assert report["command"] == shlex.join(["ray", "job", "submit", "--working-dir", ".", "--", *given])
    again = run_job("label.py", *flags, "--output", "s3://outb/job", env=env, code=0)
    assert "nothing to do" in again.stdout
