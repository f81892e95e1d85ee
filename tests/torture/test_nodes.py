"""A cluster that loses a node without warning and gains another: the run ends by itself, and right."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray._raylet import GcsClient

from tests.flow import make_tar
from tests.helpers import rows, run_job
from tests.outputs import newest_report
from tests.proxied import named
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, compare, more_than, start, wait_until

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]
ASKED = b"autoscaler_resource_request"  # Ray's key for what programs ask of an autoscaler
NODE = {"num_cpus": 1, "object_store_memory": 200 << 20}


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield made
    made.shutdown()


def test_a_node_is_lost_and_another_one_comes(cluster: Any, tmp_path: Path, tally: Tally) -> None:
    members = named(1000)
    for number in range(50):
        make_tar(tmp_path / f"in/t{number:02d}.tar", members[20 * number : 20 * number + 20])
    flags = ["--input", tmp_path / "in", *FLAGS]
    run_job("label.py", *flags, "--output", tmp_path / "whole", "--local", code=0)
    lost, output = cluster.add_node(**NODE), tmp_path / "out"
    env = {"RAY_AUTH_MODE": "disabled"}
    job = start(*flags, "--output", output, "--ray-address", cluster.address, "--workers", "1..2", env=env)
    assert wait_until(more_than(output, 15), job)
    cluster.remove_node(lost, allow_graceful=False)
    cluster.add_node(**NODE)
    said, _ = job.communicate(timeout=400)
    assert job.returncode == 0, said
    compare(tally, "node lost, node added", 1, output, tmp_path / "whole")


def test_a_pool_of_workers_grows_while_the_cluster_has_room(cluster: Any, tmp_path: Path) -> None:
    cluster.add_node(**NODE)
    members = named(6000)
    for number in range(100):
        make_tar(tmp_path / f"in/t{number:02d}.tar", members[60 * number : 60 * number + 60])
    flags = ["--input", tmp_path / "in", *FLAGS, "--output", tmp_path / "out", "--ray-address", cluster.address]
    run_job("label.py", *flags, "--workers", "1..2", env={"RAY_AUTH_MODE": "disabled"}, code=0)
    report = json.loads(newest_report(tmp_path / "out").read_text())
    assert len(report["images_by_worker"]) == 2


def test_a_run_waits_for_the_first_gpu_of_a_cluster(cluster: Any, tmp_path: Path) -> None:
    """As on a cluster that scales its GPU nodes up from none."""
    make_tar(tmp_path / "in/a.tar", named(40))
    flags = ["--input", tmp_path / "in", *FLAGS, "--device", "gpu"]
    env = {"RAY_AUTH_MODE": "disabled"}
    job = start(*flags, "--output", tmp_path / "out", "--ray-address", cluster.address, env=env)
    time.sleep(20)
    assert job.poll() is None
    assert not (tmp_path / "out").exists()
    cluster.add_node(**NODE, num_gpus=1)
    said, _ = job.communicate(timeout=400)
    assert job.returncode == 0, said
    assert "waiting for a node with a GPU" in said
    assert "1 GPU on 1 node" in said
    # What it has asked of an autoscaler, which would keep such a node for ever.
    assert GcsClient(address=cluster.address).internal_kv_get(ASKED, None) == b"[]"
    assert set(rows(tmp_path / "out")["status"].to_pylist()) == {"ok"}
