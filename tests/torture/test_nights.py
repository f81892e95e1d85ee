"""Three nights over a bucket that grows, submitted to a Ray cluster as a scheduler does it.

The second night's driver is killed, the third one has another model; afterwards people compare, look and forget.
"""

import json
import os
import re
import shlex
import signal
import subprocess
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
    arrive(fs, 0)
    night(ray_head, 1, "a", OUT, env)
    assert exported(ray_head, ("beit_success_timestamp_seconds_total", "")) > before - 1

    arrive(fs, 1, 2)
    killed_night(ray_head, doomed, nightly(2, "a", OUT), env | doomed.env(weed.env))
    said = night(ray_head, 2, "a", OUT, env)
    assert "planned 270 = ok 270 + failed 0, missing 0, duplicates 0" in said

    arrive(fs, 3)
    new = offered_place(ray_head.submit(*nightly(3, "b", OUT), env=env))
    night(ray_head, 3, "b", new, env)
    night(ray_head, 3, "a", OUT, env)
    for output in (OUT, new):
        found, name = rows(output, fs)["uri"].to_pylist(), output.rpartition("/")[2]
        lost, twice = len(wanted() - set(found)), len(found) - len(set(found))
        tally(f"three nights, a kill in the second ({name})", injected=1, lost=lost, duplicated=twice)
        assert (lost, twice, len(found)) == (0, 0, 360)
    nights = [report["tags"]["night"] for report in reports(fs, OUT)]
    assert nights == ["1", "2", "3"]  # one that was killed leaves no report

    next_morning(fs, new, tmp_path / "uris.txt", env)
    said = night(ray_head, 4, "a", OUT, env)
    assert "planned 360 = ok 353 + failed 0 + forgotten 7" in said
    assert sorted(rows(OUT, fs)["uri"].to_pylist()) == sorted(wanted())[7:]


def arrive(fs: Any, *numbers: int) -> None:
    """New shards lie in the bucket."""
    for number in numbers:
        fs.pipe_file(f"inb/nights/{number}.tar", SHARDS[number].read_bytes())


def wanted() -> set[str]:
    """Every image once, whichever night it came in."""
    return {f"s3://inb/nights/{number}.tar#{name}" for number, tar in enumerate(SHARDS) for name in images(tar)}


def night(head: RayHead, number: int, model: str, output: str, env: dict[str, str]) -> str:
    """What a night says that goes well."""
    done = head.submit(*nightly(number, model, output), env=env)
    assert done.returncode == 0, done.stdout
    return done.stdout


def killed_night(head: RayHead, doomed: FaultProxy, command: list[str], env: dict[str, str]) -> None:
    """The driver of a night is killed while a worker writes the second file."""
    keep_back(doomed, BEFORE, "PUT /data/", 2)
    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(head.submit, *command, env=env)
        while not doomed.silences()[-1]:
            assert not killed.done(), killed.result().stdout
            time.sleep(POLL_S)
        kill_the_driver(head, OUT)
        assert killed.result().returncode != 0
    settle(doomed)


def offered_place(refused: subprocess.CompletedProcess[str]) -> str:
    """The output for the new model that a refusal of the old one's names."""
    assert refused.returncode != 0
    offered = re.search(r"--output s3://(outb/nights/labels-by-model/model=b-[0-9a-f]{8})", refused.stdout)
    assert offered, refused.stdout
    return offered[1]


def next_morning(fs: Any, new: str, uris: Path, env: dict[str, str]) -> None:
    """People compare both models, look at the page, and have seven images forgotten."""
    said = run_job("evaluate.py", f"s3://{new}", "--against", f"s3://{OUT}", env=env, code=0).stdout
    nines = pc.sum(pc.equal(pc.list_element(rows(OUT, fs)["labels"], 0), "9")).as_py()
    assert nines > 10
    assert f"{360 - nines:,} of 360" in said, said
    assert "360" in run_job("report.py", f"s3://{OUT}", "--verify", env=env, code=0).stdout
    uris.write_text("\n".join(sorted(wanted())[:7]) + "\n")
    run_job("forget.py", f"s3://{OUT}", "--uris", uris, env=env, code=0)


def images(tar: Path) -> list[str]:
    """The members of a shard that are images."""
    with tarfile.open(tar) as archive:
        return [name for name in archive.getnames() if name.endswith(".png")]
