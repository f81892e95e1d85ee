"""Runs killed between two requests to S3, and what the next one may then ask of the source: its unfinished images."""

import io
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.source.format import BEGINNING
from tests.faults import FaultProxy, Rule
from tests.helpers import tree_bytes
from tests.torture.proof import kill, wait_until
from tests.torture.victims import Victim
from tests.weed import Weed

BEFORE, AFTER = "stall", "mute"  # the server has not heard of the request yet, has carried it out
POLL_S = 0.05
SPANS = 6  # of a shard of these tests, at most


def put(weed: Weed, folder: Path, prefix: str) -> dict[str, bytes]:
    """The objects made of a folder's files, by key."""
    weed.put_tree(folder, prefix)
    return {f"{prefix}/{name}": data for name, data in tree_bytes(folder).items()}


def keep_back(proxy: FaultProxy, kind: str, asked: str, number: int) -> None:
    """Keep the answers to such requests back from the `number`-th on."""
    method, _, text = asked.partition(" ")
    proxy.fail(Rule("latency", text, method, secs=0, times=number - 1), Rule(kind, text, method))


def die(
    proxy: FaultProxy,
    kind: str,
    asked: str,
    number: int,
    *command: object,
    env: dict[str, str],
    script: str = "label.py",
) -> None:
    """Run a job and kill it when it waits for the answer to this request of its own."""
    keep_back(proxy, kind, asked, number)
    job = Victim(*command, env=proxy.env(env), script=script)
    met = wait_until(lambda: proxy.silences()[-1], job, poll=POLL_S)
    kill(job)
    assert met, f"the run ended before {asked}"
    settle(proxy)


def settle(proxy: FaultProxy) -> None:
    """Until nothing that a dead run has asked for is under way."""
    deadline = time.monotonic() + 60
    while proxy.clients():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    proxy.fail()


def due(source: dict[str, bytes], output: str, fs: Any) -> dict[str, int]:
    """Bytes of every object that a run has to fetch: all of an unfinished image; of a tar what lies behind its last
    finished span; of a Parquet file, whose rows cannot be told apart, all or nothing.
    """
    there = tree_bytes(output, fs)
    files = [data for name, data in there.items() if name.startswith("data/") and name.endswith(".parquet")]
    finished = {uri for data in files for uri in pq.read_table(pa.BufferReader(data))["uri"].to_pylist()}
    left = {key: len(data) - done(data, f"s3://{key}", finished) for key, data in source.items()}
    return {key: size for key, size in left.items() if size}


def done(data: bytes, uri: str, finished: set[str]) -> int:
    """The first bytes of an object of which all is finished."""
    if uri.endswith(".tar"):
        return resume_at(data, uri, finished)
    if uri.endswith(".parquet"):
        rows = pq.read_metadata(pa.BufferReader(data)).num_rows
        return len(data) if all(f"{uri}#{row}" in finished for row in range(rows)) else 0
    return len(data) if uri in finished else 0


def check_fetched(proxy: FaultProxy, left: dict[str, int], *, looked_into: str = "") -> None:
    """What was due was asked for, and nothing else; spans of a shard that is known to its end are each read apart.

    A run with a new output looks into its first shard before.
    """
    found = fetched(proxy)
    assert found.keys() == left.keys()
    for key, size in left.items():
        if key.endswith((".tar", ".parquet")):
            assert 0 < found[key] <= SPANS * size + (size + BEGINNING if key == looked_into else 0), key
        else:
            assert found[key] == size, key


def resume_at(data: bytes, uri: str, finished: set[str]) -> int:
    """Where in a tar its first unfinished image begins."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        images = [member for member in tar.getmembers() if member.name.endswith(".png")]
    return next((image.offset for image in images if f"{uri}#{image.name}" not in finished), len(data))


def fetched(proxy: FaultProxy) -> dict[str, int]:
    """Bytes that were asked for of every object of the source."""
    return {key: size for key, size in proxy.bytes().items() if key.startswith("inb/")}
