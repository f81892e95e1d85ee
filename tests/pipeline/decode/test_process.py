"""One child: what it answers, and that it ends when nobody is left to end it."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from beit_core import PixelSpec
from pipeline.decode import process
from pipeline.decode.child import NICE, ROOM
from pipeline.decode.decode import DecodeSettings, decode
from pipeline.decode.process import Child, ChildDied, Undecoded
from tests.helpers import ROOT
from tests.pipeline.decode.answers import HANG, coloured, wait_for
from tests.torture.proof import alive

SMALL = DecodeSettings((PixelSpec(resize=(8, 8)),))
AS_IT_IS = DecodeSettings((PixelSpec(resize=None),))
PARENT = """
import sys, time
from pathlib import Path
from beit_core import PixelSpec
from pipeline.decode.decode import DecodeSettings
from pipeline.decode.pool import DecodePool
pool = DecodePool(DecodeSettings((PixelSpec(resize=(8, 8)),)), 3)
for _ in range(4):
    pool.submit(b"WAIT-IN!", None, print)
gate = Path(sys.argv[1])
while len(list(gate.glob("[0-9]*"))) < 2:
    time.sleep(0.01)
print(*pool.pids, flush=True)
time.sleep(600)
"""


def noise(side: int) -> bytes:
    """A bitmap file, as large as its pixels."""
    import io

    from PIL import Image

    sink = io.BytesIO()
    pixels = np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(sink, "BMP")
    return sink.getvalue()


def test_files_and_pixels_larger_than_any_pipe_go_both_ways_while_two_are_in_flight() -> None:
    files = [noise(700 + n % 3) if n % 4 else noise(20) for n in range(12)]
    assert len(files[1]) > ROOM > len(files[0])
    child = Child(AS_IT_IS)
    try:
        child.wait_until_ready()
        for ahead, data in enumerate(files):
            child.send([Undecoded(data, None)])
            if ahead:
                assert_same(child, files[ahead - 1])
        assert_same(child, files[-1])
    finally:
        child.end()


def assert_same(child: Child, data: bytes) -> None:
    (found,), wanted = child.receive(), decode(data, AS_IT_IS.specs)
    assert (found.status, found.width) == ("ok", wanted.width)
    assert np.array_equal(found.views[0], wanted.views[0])


def test_a_packet_is_answered_in_its_order_also_where_it_does_not_fit_into_the_inbox() -> None:
    files = [noise(300), b"no picture", noise(20), noise(500), noise(301), noise(302)]
    assert sum(map(len, files)) > ROOM > max(map(len, files))
    child = Child(AS_IT_IS)
    try:
        child.wait_until_ready()
        child.send([Undecoded(data, None) for data in files])
        child.send([Undecoded(files[2], None)])
        found = child.receive()
        assert [answer.width for answer in found] == [300, None, 20, 500, 301, 302]
        assert np.array_equal(found[4].views[0], decode(files[4], AS_IT_IS.specs).views[0])
        assert [answer.width for answer in child.receive()] == [20]
    finally:
        child.end()


def test_what_was_answered_before_a_death_is_not_lost() -> None:
    child = Child(SMALL)
    try:
        child.wait_until_ready()
        child.send([Undecoded(coloured(1), None)])
        select.select([child.process.stdout], [], [])
        child.process.kill()
        child.process.wait()
        child.send([Undecoded(coloured(2), None)])
        assert child.receive()[0].status == "ok"
        with pytest.raises(ChildDied):
            child.receive()
    finally:
        child.end()


def test_children_are_nicer_than_their_parent() -> None:
    child = Child(SMALL)
    try:
        child.wait_until_ready()
        mine = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, child.process.pid) == min(19, mine + NICE)
    finally:
        child.end()


@pytest.mark.torture
@pytest.mark.usefixtures("poison")
def test_a_hanging_child_ends_itself_when_nobody_is_left_to_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 5.0)
    child = Child(SMALL)
    try:
        child.wait_until_ready()
        child.send([Undecoded(HANG, None)])
        with pytest.raises(TimeoutError):
            child.receive()
        assert child.process.wait(60) == -signal.SIGALRM
    finally:
        child.end()


def test_children_end_when_their_parent_is_killed(gate: Path) -> None:
    """Two of them with an image in hand: these end with it."""
    command = [sys.executable, "-c", PARENT, str(gate)]
    parent = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert len(children) == 3
    parent.kill()
    parent.communicate()
    (gate / "open").touch()
    wait_for(lambda: not any(map(alive, children)))


def test_modules_in_the_folder_of_a_command_are_none_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project may have a `pipeline` of its own, or a file named like one of the standard library."""
    for name in ("pipeline/__init__.py", "pipeline/decode/__init__.py", "pipeline/decode/child.py", "select.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('not ours')")
    monkeypatch.chdir(tmp_path)
    child = Child(SMALL)
    try:
        child.wait_until_ready()
        child.send([Undecoded(coloured(1, 100), None)])  # made smaller, for which torch is imported
        assert child.receive()[0].status == "ok"
    finally:
        child.end()
