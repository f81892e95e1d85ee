"""What a tortured output is held against: another of the same input that nobody disturbed."""

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.audit import verify
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, rows, tree_bytes
from tests.torture.conftest import Tally

FLAGS = ["--model", DIGITS / "model", "--span-size", 4, "--batch-size", 4]
POLL_S = 0.005


def compare(tally: Tally, fault: str, injected: int, output: Path | str, undisturbed: Path, fs: Any = None) -> None:
    """Nothing lost, nothing twice, the same bytes, no stray file; a line for the table."""
    wanted = Counter(rows(undisturbed)["uri"].to_pylist())
    found = Counter(rows(output, fs)["uri"].to_pylist())
    lost, twice = (wanted - found).total(), (found - wanted).total()
    tally(fault, injected=injected, lost=lost, duplicated=twice)
    assert (lost, twice) == (0, 0)
    assert tree_bytes(f"{output}/data", fs) == tree_bytes(undisturbed / "data")
    if fs is None:
        assert verify(str(output)).green
        assert not [name for name in tree_bytes(output) if name.endswith(".tmp")]


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


def kill(job: subprocess.Popen[str]) -> None:
    """SIGKILL, as the kernel does when memory ends."""
    job.kill()
    job.communicate()


def wait_until(true: Callable[[], Any], job: subprocess.Popen[str], timeout: float = 180) -> bool:
    """Whether it came true before the job ended; raises when neither happens."""
    deadline = time.monotonic() + timeout
    while not true():
        if job.poll() is not None:
            return False
        if time.monotonic() > deadline:
            kill(job)
            raise TimeoutError(f"{job.args}: neither ended nor got there in {timeout:.0f} s")
        time.sleep(POLL_S)
    return True


def files(output: Path) -> dict[str, int]:
    """Finished spans and when they were written."""
    return {path.name: path.stat().st_mtime_ns for path in (output / "data").glob("[!.]*.parquet")}


def more_than(output: Path, spans: int) -> Callable[[], bool]:
    """Whether so many spans are finished by now."""
    return lambda: len(files(output)) >= spans
