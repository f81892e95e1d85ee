"""What a tortured output is held against: another of the same input that nobody disturbed."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pipeline.output.place import Place
from pipeline.plan.verify import verify
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, rows, tree_bytes
from tests.ray_head import descendants
from tests.torture.conftest import Tally
from tests.torture.victims import Victim

Job = subprocess.Popen[str] | Victim
HOOKS = str(ROOT / "tests/hooks")
FLAGS = ["--model", DIGITS / "model", "--dtype", "float32", "--span-size", 4, "--batch-size", 4]
SPAN: dict[str, Any] = {"span_size": 4, "batch_size": 4}  # the same, for a run in the test's own process
POLL_S = 0.005


def compare(tally: Tally, fault: str, injected: int, output: Path | str, undisturbed: Path, fs: Any = None) -> None:
    """Nothing lost, nothing twice, the same bytes, no stray file; a line for the table.

    An output "bucket/prefix" is seen through `fs`, and its rows are read by way of this process's own client.
    """
    wanted = Counter(rows(undisturbed)["uri"].to_pylist())
    found = Counter(rows(output, fs)["uri"].to_pylist())
    lost, twice = (wanted - found).total(), (found - wanted).total()
    tally(fault, injected=injected, lost=lost, duplicated=twice)
    assert (lost, twice) == (0, 0)
    assert tree_bytes(f"{output}/data", fs) == tree_bytes(undisturbed / "data")
    assert verify(Place.of(str(output) if fs is None else f"s3://{output}")).green
    assert not [name for name in tree_bytes(output, fs) if name.endswith(".tmp")]


def start(*args: object, env: dict[str, str] | None = None, script: str = "label.py") -> subprocess.Popen[str]:
    """A job in a process group of its own, left running."""
    return subprocess.Popen(
        [sys.executable, f"jobs/{script}", *map(str, args)], cwd=ROOT, env=clean_env(env), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def hear_ctrl_c() -> None:
    """A shell's background jobs ignore it, and whatever they start does too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def start_command(source: Path, output: Path) -> list[object]:
    """The whole command of a run in one process."""
    return [sys.executable, ROOT / "jobs/label.py", "--input", source, "--output", output, *FLAGS, "--local"]


def die_at(call: str, *args: object, env: dict[str, str] | None = None, script: str = "label.py") -> None:
    """Run a job that kills itself at a precise call, as tests/hooks says it."""
    job = Victim(*args, env=(env or {}) | {"PYTHONPATH": HOOKS, "DIE_AT": call}, script=script)
    said, _ = job.communicate()
    assert job.poll() == -signal.SIGKILL, f"{call}: {said}"


def kill(job: Job) -> None:
    """SIGKILL, as the kernel does when memory ends."""
    job.kill()
    job.communicate()


def wait_until(true: Callable[[], Any], job: Job, timeout: float = 180, poll: float = POLL_S) -> bool:
    """Whether it came true before the job ended; raises when neither happens."""
    deadline = time.monotonic() + timeout
    while not true():
        if job.poll() is not None:
            return False
        if time.monotonic() > deadline:
            kill(job)
            raise TimeoutError(f"{job.args}: neither ended nor got there in {timeout:.0f} s")
        time.sleep(poll)
    return True


def workers(driver: int, *, decoders: bool = True) -> set[int]:
    """Of the processes below a driver the actors that work on spans, and the children that decode."""
    return at_work(driver, "MapWorker", "Fused", *(["pipeline.decode.child"] if decoders else []))


def pullers(driver: int) -> set[int]:
    """Of the processes below a driver the Ray tasks that pull rows from the board."""
    return at_work(driver, "MapBatches(pull)")


def at_work(top: int, *names: str) -> set[int]:
    """Of the processes below one those whose command holds one of these names; Ray calls its own after their task."""
    found = set()
    for process in descendants(top):
        with suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes()
            if any(name.encode() in command for name in names):
                found.add(process)
    return found


def kill_all(processes: Iterable[int]) -> int:
    """SIGKILL to each, in that order; how many there were."""
    killed = 0
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
            killed += 1
    return killed


def wait_for_the_end_of(processes: set[int], timeout: float = 60) -> None:
    """Until they are gone, or wait to be buried; raises when one stays."""
    deadline = time.monotonic() + timeout
    while left := [process for process in processes if alive(process)]:
        if time.monotonic() > deadline:
            raise TimeoutError(f"still there after {timeout:.0f} s: {left}")
        time.sleep(0.05)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def files(output: Path) -> dict[str, int]:
    """Finished spans and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "data").glob("[!.]*.parquet")}


def more_than(output: Path, spans: int) -> Callable[[], bool]:
    """Whether so many spans are finished by now."""
    return lambda: len(files(output)) >= spans
