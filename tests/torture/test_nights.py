"""Three nights over a bucket that grows, submitted to a Ray cluster as a scheduler does it.

The second night's driver is killed, the third one has another model; afterwards people compare, look and forget.
"""

import json
import os
import re
import shlex
import signal
import tarfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pytest
from safetensors.torch import load_file, save_file

from tests.faults import FaultProxy
from tests.flow import DIGITS
from tests.helpers import rows, run_job
from tests.pipeline.test_metrics import WAIT_S, samples
from tests.ray_head import RayHead, descendants
from tests.torture.conftest import Tally
from tests.torture.s3 import BEFORE, POLL_S, keep_back, settle
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
SHARDS = sorted((DIGITS / "shards").glob("*.tar"))
OUT = "outb/nights/labels"


def nightly(number: int, model: str, output: str) -> list[str]:
    """The command of the schedule; only what a person changes differs between nights."""
    line = f"python jobs/label.py --input s3://inb/nights/ --output s3://{output} --model s3://inb/models/{model}/ "
    return shlex.split(f"{line} --keep cls --device cpu --span-size 30 --if-running exit --tag night={number}")


def retrained(folder: Path) -> Path:
    """The digits model with a new opinion: it never sees a nine."""
    folder.mkdir()
    for file in (DIGITS / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][9] -= 100
    save_file(weights, folder / "model.safetensors")
    return folder


def kill_the_driver(head: RayHead, output: str) -> None:
    """SIGKILL to the process of the submitted job, not to the shell that may have started it."""
    found = [pid for pid in descendants(head.pid) if is_driver(pid, output)]
    assert found
    for pid in found:
        os.kill(pid, signal.SIGKILL)


def is_driver(pid: int, output: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"jobs/label.py" in words and f"s3://{output}".encode() in words


def reports(fs: Any, output: str) -> list[dict[str, Any]]:
    """Of all runs, in the order of their beginning."""
    return [json.loads(fs.cat_file(name)) for name in sorted(fs.glob(f"{output}/runs/*.json"))]


def exported(head: RayHead, key: tuple[str, str]) -> float:
    """A figure as the cluster's own metrics have it."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        with urllib.request.urlopen(head.metrics, timeout=10) as answer:
            found = samples(answer.read().decode())
        if key in found:
            return found[key]
        time.sleep(0.5)
    raise AssertionError(f"{key} is not exported")


def test_three_nights_lose_nothing_and_can_be_compared_and_forgotten(
    weed: Weed, fs: Any, doomed: FaultProxy, ray_head: RayHead, tmp_path: Path, tally: Tally
) -> None:
    env = weed.env | {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    weed.put_tree(DIGITS / "model", "inb/models/a")
    weed.put_tree(retrained(tmp_path / "b"), "inb/models/b")
    before = time.time()

    # The first night.
    fs.pipe_file("inb/nights/0.tar", SHARDS[0].read_bytes())
    first = ray_head.submit(*nightly(1, "a", OUT), env=env)
    assert first.returncode == 0, first.stdout
    assert exported(ray_head, ("beit_last_success_timestamp_seconds", "")) > before - 1

    # The second one has more to do, and its driver is killed while a worker writes.
    for number in (1, 2):
        fs.pipe_file(f"inb/nights/{number}.tar", SHARDS[number].read_bytes())
    keep_back(doomed, BEFORE, "PUT /data/", 2)
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(ray_head.submit, *nightly(2, "a", OUT), env=env | doomed.env(weed.env))
        while not doomed.silences()[-1]:
            assert not killed.done(), killed.result().stdout
            time.sleep(POLL_S)
        kill_the_driver(ray_head, OUT)
        assert killed.result().returncode != 0
    settle(doomed)
    again = ray_head.submit(*nightly(2, "a", OUT), env=env)
    assert again.returncode == 0, again.stdout
    assert "planned 270 = ok 270 + failed 0, missing 0, duplicates 0" in again.stdout

    # The third night's command still names the old output, and is told which one the new model has.
    fs.pipe_file("inb/nights/3.tar", SHARDS[3].read_bytes())
    refused = ray_head.submit(*nightly(3, "b", OUT), env=env)
    assert refused.returncode != 0
    offered = re.search(r"--output (s3://outb/nights/labels-by-model/model=b-[0-9a-f]{8})", refused.stdout)
    assert offered, refused.stdout
    new = offered[1].removeprefix("s3://")
    third = ray_head.submit(*nightly(3, "b", new), env=env)
    assert third.returncode == 0, third.stdout
    assert ray_head.submit(*nightly(3, "a", OUT), env=env).returncode == 0

    # What is there now, for both models: every image once, whichever night it came in.
    wanted = {f"s3://inb/nights/{n}.tar#{m}" for n, tar in enumerate(SHARDS) for m in images(tar)}
    for output in (OUT, new):
        found = rows(output, fs)["uri"].to_pylist()
        lost, twice = len(wanted - set(found)), len(found) - len(set(found))
        tally(
            f"three nights, a kill in the second ({output.rpartition('/')[2]})", injected=1, lost=lost, duplicated=twice
        )
        assert (lost, twice, len(found)) == (0, 0, 360)
    nights = [report["tags"]["night"] for report in reports(fs, OUT)]
    assert nights == ["1", "2", "3"]  # one that was killed leaves no report

    # The next morning.
    said = run_job("evaluate.py", f"s3://{new}", "--against", f"s3://{OUT}", env=env, code=0).stdout
    nines = pc.sum(pc.equal(pc.list_element(rows(OUT, fs)["labels"], 0), "9")).as_py()
    assert nines > 10
    assert f"{360 - nines:,} of 360" in said, said
    page = run_job("report.py", f"s3://{OUT}", "--verify", env=env, code=0).stdout
    assert "360" in page
    (tmp_path / "uris.txt").write_text("\n".join(sorted(wanted)[:7]) + "\n")
    run_job("forget.py", f"s3://{OUT}", "--uris", tmp_path / "uris.txt", env=env, code=0)
    fourth = ray_head.submit(*nightly(4, "a", OUT), env=env)
    assert fourth.returncode == 0, fourth.stdout
    assert "planned 360 = ok 353 + failed 0 + forgotten 7" in fourth.stdout
    assert sorted(rows(OUT, fs)["uri"].to_pylist()) == sorted(wanted)[7:]


def images(tar: Path) -> list[str]:
    """The members of a shard that are images."""
    with tarfile.open(tar) as archive:
        return [name for name in archive.getnames() if name.endswith(".png")]
