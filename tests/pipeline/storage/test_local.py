"""What only the local disk has: half-written files, swept once their process has exited, and names of any bytes."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Timer

import pytest

from pipeline import storage
from tests.helpers import ROOT


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture(params=["node", "ip-10-0-0-1.ec2.internal"], autouse=True)
def host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: request.param)


def half_written(folder: Path, process: int) -> Path:
    name = storage.half_written(str(folder / "span.parquet"))
    path = Path(name.replace(f"-{os.getpid()}.", f"-{process}."))
    path.write_bytes(b"half")
    return path


def test_what_is_being_written_stays(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = half_written(tmp_path, child.pid)
    storage.sweep(str(tmp_path))
    assert path.exists()


def test_a_zombie_has_exited(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
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


def test_what_another_machine_is_writing_stays(tmp_path: Path, child: subprocess.Popen[bytes]) -> None:
    path = tmp_path / f".span.parquet.7.5_{socket.gethostname().replace('.', '_')}-{child.pid}.tmp"
    path.write_bytes(b"half")
    child.kill()
    child.wait()
    storage.sweep(str(tmp_path))
    assert path.exists()


def test_threads_may_write_one_file(tmp_path: Path) -> None:
    uri = str(tmp_path / "file")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: storage.put(uri, bytes([number]) * 100_000), range(64)))
    assert len(set((tmp_path / "file").read_bytes())) == 1
    assert os.listdir(tmp_path) == ["file"]


CREATE = """
import sys
from pipeline import storage
input()
print(*[n for n in range(200) if storage.create(f"{sys.argv[1]}/{n}", sys.argv[2].encode())])
"""


def test_of_several_processes_one_creates(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", CREATE, str(tmp_path / "in"), str(number)] for number in range(4)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    writers = [subprocess.Popen(command, **pipes) for command in commands]
    for writer in writers:  # all are told to start before the first is waited for
        writer.stdin.write("\n")
        writer.stdin.flush()
    created = [list(map(int, writer.communicate()[0].split())) for writer in writers]
    assert [writer.returncode for writer in writers] == [0] * 4
    assert sorted(number for names in created for number in names) == list(range(200))
    for number, names in enumerate(created):
        assert all((tmp_path / "in" / str(name)).read_text() == str(number) for name in names)
    assert len(os.listdir(tmp_path / "in")) == 200


def test_a_name_that_is_no_text_is_a_name(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(b"x")
    (entry,) = storage.listing(str(tmp_path))
    assert entry.uri == f"{tmp_path}/caf\\xe9.png"
    assert storage.stat(entry.uri) == entry
    assert storage.read(entry.uri) == b"x"
    storage.delete(entry.uri)
    assert not os.path.exists(path)


def test_a_parent_that_is_a_file_is_no_name_that_is_taken(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        storage.create(f"{tmp_path}/file/x", b"")


def test_no_output_is_put_where_the_name_is_no_text(tmp_path: Path) -> None:
    unfit = storage.unfit(f"{tmp_path}/\udcff", shared=False)
    assert unfit is not None
    assert f"{tmp_path}/\\xff" in unfit
    assert storage.unfit(f"{tmp_path}/\xfc", shared=False) is None
