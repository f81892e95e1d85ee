"""What a process leaves half-written is swept away once the process is over, and not before."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Timer

import pytest

from pipeline import storage


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def half_written(folder: Path, process: int) -> Path:
    path = folder / f".span.parquet.{socket.gethostname()}-{process}.tmp"
    path.write_bytes(b"half")
    return path


def test_what_is_being_written_stays(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = half_written(tmp_path, child.pid)
    storage.sweep(str(tmp_path))
    assert path.exists()


def test_a_process_that_nobody_has_buried_is_over(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = half_written(tmp_path, child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    storage.sweep(str(tmp_path))
    assert not path.exists()


def test_a_process_that_is_about_to_end_is_waited_for(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = half_written(tmp_path, child.pid)
    Timer(0.3, child.kill).start()
    storage.sweep(str(tmp_path), wait_s=30)
    assert not path.exists()
