"""Where a local output cannot work: a submitted job's own folder, or one that not all nodes of a cluster share."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import address
from pipeline.errors import ConfigError
from tests.flow import DIGITS, run_here
from tests.helpers import ROOT, clean_env, run_job
from tests.ray_head import RayHead
from tests.weed import Weed

FLAGS = ["--input", DIGITS / "shards", "--model", DIGITS / "model", "--limit", 3]
# Two nodes of one machine share all folders but those whose path means another thing to every process.
SHARED = """
import json, os, sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "object_store_memory": 100 << 20}
nodes = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
nodes.add_node(**node)
os.chdir(sys.argv[1])
from pipeline.engine import cluster
from pipeline.errors import ConfigError
ray = cluster.import_ray(verbose=False)
cluster.connect(ray, nodes.address, verbose=False)
said = {}
for output in sys.argv[2:]:
    try:
        cluster.check_shared(ray, output)
        said[output] = None
    except ConfigError as error:
        said[output] = str(error)
ray.shutdown()
nodes.shutdown()
print(json.dumps(said))
"""


@pytest.mark.torture
def test_a_relative_output_of_a_submitted_job_is_refused(ray_head: RayHead) -> None:
    done = ray_head.submit("python", "jobs/label.py", *map(str, FLAGS), "--output", "labels")
    assert done.returncode == 1
    assert "--output labels: a submitted job runs in Ray's copy of the working folder" in done.stdout + done.stderr


def test_nodes_without_keys_are_found_before_anything_is_written(weed: Weed, ray_head: RayHead) -> None:
    flags = [*FLAGS, "--output", "s3://outb/no-keys", "--ray-address", ray_head.address, "--device", "cpu"]
    done = run_job("label.py", *flags, env=ray_head.env | weed.env, code=2)
    assert re.search(r"on the node \S+, where a worker would be: no S3 credentials found: .* not that of", done.stderr)
    assert not weed.fs().exists("outb/no-keys")


@pytest.mark.parametrize("output", ["labels", "file://labels", "./labels"])
def test_whichever_way_it_is_written(output: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(address.SUBMITTED, "{}")
    with pytest.raises(ConfigError, match=r"a submitted job .* give s3://..., or an absolute path"):
        run_here(DIGITS / "shards", output, limit=3)
    assert run_here(DIGITS / "shards", tmp_path / "labels", limit=3) == 0


def test_packages_of_ray_are_known_by_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not address.is_submitted()
    (tmp_path / "runtime_resources/working_dir_files/_ray_pkg_1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runtime_resources/working_dir_files/_ray_pkg_1")
    assert address.is_submitted()


@pytest.mark.torture
def test_a_folder_that_another_node_does_not_see_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    shared, own = str(tmp_path / "a/b/labels"), "/proc/self/cwd/labels"
    done = subprocess.run(
        [sys.executable, "-c", SHARED, str(tmp_path), shared, own, "s3://bucket/labels"],
        env=clean_env({"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said[shared] is None
    assert said["s3://bucket/labels"] is None
    assert f"--output {own}: 1 of 2 nodes do not see this folder" in said[own]
    assert list(tmp_path.iterdir()) == []
