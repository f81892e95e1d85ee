"""A Ray head on loopback with its job server, ended by its own process id."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import clean_env
from tests.ports import free_block

START_SECONDS = 90
WORKER_PORTS = 80


@dataclass(frozen=True)
class RayHead:
    """`address` is for --ray-address, `api` for `ray job submit`; `env` is needed by both.

    `metrics` is what Prometheus scrapes.
    """

    address: str
    api: str
    metrics: str
    env: dict[str, str]
    pid: int

    def submit(
        self, *entrypoint: str, env: dict[str, str] | None = None, timeout: float = 240
    ) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir . -- ENTRYPOINT` from the repository root; `env` is for driver and workers."""
        ray = str(Path(sys.executable).parent / "ray")
        runtime = ["--runtime-env-json", json.dumps({"env_vars": env or {}})]
        command = [ray, "job", "submit", "--working-dir", ".", *runtime, "--", *entrypoint]
        root = Path(__file__).resolve().parent.parent
        return subprocess.run(
            command,
            cwd=root,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )


def head_env() -> dict[str, str]:
    """Both sides must agree on having no token; jobs find this interpreter first."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return clean_env({"RAY_AUTH_MODE": "disabled", "PATH": path})


def command(temp: str, ports: list[int]) -> list[str]:
    # No port is left to Ray: its defaults collide with other heads, its random ones with other servers.
    gcs, dashboard, listen, agent, runtime_env, metrics, nodes, objects, client, first = ports[:10]
    ray = [
        str(Path(sys.executable).parent / "ray"),
        "start",
        "--head",
        "--block",
        "--num-cpus=2",
        "--num-gpus=2",
        f"--temp-dir={temp}",
    ]
    ray += ["--node-ip-address=127.0.0.1", f"--port={gcs}", f"--object-store-memory={400 << 20}"]
    ray += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={listen}"]
    ray += [f"--dashboard-agent-grpc-port={agent}", f"--runtime-env-agent-port={runtime_env}"]
    ray += [f"--metrics-export-port={metrics}", f"--node-manager-port={nodes}", f"--object-manager-port={objects}"]
    ray += [f"--ray-client-server-port={client}", f"--min-worker-port={first}", f"--max-worker-port={ports[-1]}"]
    return ray


def wait_for_jobs_api(process: subprocess.Popen[bytes], api: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{api}/api/jobs/", timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"Ray did not start:\n{log.read_text(errors='replace')[-2000:]}")


def descendants(pid: int) -> set[int]:
    """All processes below one, by /proc."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found, edge = set[int](), {pid}
    while edge:
        edge = {child for child, parent in parents.items() if parent in edge} - found
        found |= edge
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill the head's own group, and what of its children had moved to other groups: asked, it takes ten seconds."""
    children = descendants(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()


@contextmanager
def ray_head_server(more: dict[str, str] | None = None) -> Iterator[RayHead]:
    """In a short folder of its own: a socket's path may have 107 characters only. `more` is for its environment."""
    ports = list(free_block())[: 9 + WORKER_PORTS]
    env, api = head_env() | (more or {}), f"http://127.0.0.1:{ports[1]}"
    with tempfile.TemporaryDirectory(prefix="rh", ignore_cleanup_errors=True) as temp:
        log = Path(temp) / "head.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command(temp, ports), env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
            )
        try:
            wait_for_jobs_api(process, api, log)
            metrics = f"http://127.0.0.1:{ports[5]}/metrics"
            yield RayHead(f"127.0.0.1:{ports[0]}", api, metrics, env | {"RAY_API_SERVER_ADDRESS": api}, process.pid)
        finally:
            end(process)


@contextmanager
def gpu_node_beside_cpus(more: dict[str, str] | None = None) -> Iterator[RayHead]:
    """A node of two CPUs, and one of a CPU and a GPU, which is pretended unless `more` has one."""
    from ray.cluster_utils import Cluster  # here: few tests need it, and it takes a second

    env, memory = head_env() | (more or {}), 200 << 20
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        head = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": memory, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=memory)
            yield RayHead(cluster.address, "", "", env, os.getpid())
        finally:
            cluster.shutdown()
