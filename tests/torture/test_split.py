"""The split layout, whose steps are processes of Ray's, each of which is killed in its turn: the run ends by itself."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow import make_tar
from tests.helpers import run_job
from tests.proxied import named
from tests.ray_head import RayHead, gpu_node_beside_cpus
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, at_work, compare, kill_all, more_than, start, wait_until

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
# What Ray calls a process while it works on a step, and the decoding child of one that reads.
STEPS = ["MapBatches(read_step)", "Predicting", "MapBatches(write_step)", "pipeline.decode.child"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayHead]:
    with gpu_node_beside_cpus() as cluster:
        yield cluster


def test_kills_at_every_step(cluster: RayHead, tmp_path: Path, tally: Tally) -> None:
    members = named(1200)
    for number in range(60):
        make_tar(tmp_path / f"in/t{number:02d}.tar", members[20 * number : 20 * number + 20])
    flags = ["--input", tmp_path / "in", *FLAGS]
    run_job("label.py", *flags, "--output", tmp_path / "whole", "--local", code=0)
    output, killed = tmp_path / "out", 0
    job = start(*flags, "--output", output, "--ray-address", cluster.address, env=cluster.env)
    for target, step in enumerate(2 * STEPS):
        assert wait_until(more_than(output, 10 + 10 * target), job)
        struck = 0
        while not struck:  # what was at the step may be at another, or gone, before it is hit
            assert wait_until(lambda step=step: at_work(os.getpid(), step), job), step
            struck = kill_all(at_work(os.getpid(), step))
        killed += struck
    said, _ = job.communicate(timeout=600)
    assert job.returncode == 0, said
    assert ": split" in said
    compare(tally, "processes killed (split)", killed, output, tmp_path / "whole")
