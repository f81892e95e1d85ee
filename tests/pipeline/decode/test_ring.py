"""A ring of batch buffers: what one process writes the other reads, and who waits is woken."""

import mmap
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import numpy as np
import pytest

from pipeline.decode.ring import Buffer, Ring, RingClosed, RingLayout
from tests.helpers import ROOT

VIEWS = ((5, 7), (3, 2))
WRITER = """
import sys
from pipeline.decode.ring import RingLayout, mapped
layout = RingLayout(((5, 7), (3, 2)), 4, 3)
for number, views in enumerate(layout.batches(mapped(int(sys.argv[1]), layout))):
    for view, batch in enumerate(views):
        for slot in range(layout.batch):
            batch[slot] = 1 + 16 * number + 8 * view + slot
"""


@pytest.fixture(params=["memory", "file"])
def ring(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ring]:
    if request.param == "file":  # as on systems that give no memory by descriptor
        monkeypatch.delattr(os, "memfd_create")
    with Ring(VIEWS, batch=4, buffers=3) as made:
        yield made


def test_what_a_child_writes_is_the_memory_that_the_taker_looks_at(ring: Ring) -> None:
    buffers = [ring.take() for _ in range(3)]
    assert [view.any() for buffer in buffers for view in buffer.views] == [False] * 6
    subprocess.run([sys.executable, "-c", WRITER, str(ring.fd)], cwd=ROOT, pass_fds=[ring.fd], check=True)
    for buffer in buffers:
        for number, (view, size) in enumerate(zip(buffer.views, VIEWS, strict=True)):
            assert view.shape == (4, *size, 3)
            assert np.shares_memory(view, ring.memory)
            wanted = 1 + 16 * buffer.number + 8 * number + np.arange(4)
            assert np.array_equal(view, np.broadcast_to(wanted[:, None, None, None], view.shape))


def test_batches_do_not_overlap_and_begin_on_pages(ring: Ring) -> None:
    views = [view for _ in range(3) for view in ring.take().views]
    assert not any(np.shares_memory(one, other) for i, one in enumerate(views) for other in views[:i])
    base = ring.memory.ctypes.data
    assert base % mmap.PAGESIZE == 0
    assert [(view.ctypes.data - base) % mmap.PAGESIZE for view in views] == [0] * 6
    assert ring.memory.shape == (ring.layout.size,)


def test_one_slot_is_blackened_in_every_view_and_its_neighbours_stay(ring: Ring) -> None:
    ring.memory[:] = 9
    buffer = ring.take()
    buffer.blacken(2)
    for view in buffer.views:
        assert [picture.any() for picture in view] == [True, True, False, True]
    assert ring.take().views[0].all()


def test_who_waits_gets_the_buffer_that_another_thread_releases(ring: Ring) -> None:
    buffers = [ring.take() for _ in range(3)]
    got: list[Buffer] = []
    waiting = threading.Thread(target=lambda: got.append(ring.take()))
    waiting.start()
    buffers[1].release()
    waiting.join(30)
    assert [buffer.number for buffer in got] == [1]
    assert got[0].views[0] is buffers[1].views[0]


def test_closing_wakes_who_waits_and_keeps_what_is_looked_at(ring: Ring) -> None:
    buffers = [ring.take() for _ in range(3)]
    woken: list[bool] = []

    def wait() -> None:
        try:
            ring.take()
        except RingClosed:
            woken.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ring.close()
    for thread in threads:
        thread.join(30)
    assert woken == [True] * 3
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(ring.fd)
    buffers[0].views[0][:] = 3
    assert buffers[0].views[0].min() == 3


def test_a_buffer_is_released_once(ring: Ring) -> None:
    buffer = ring.take()
    buffer.release()
    with pytest.raises(ValueError, match="was released before"):
        buffer.release()


@pytest.mark.parametrize("sizes", [((), 1, 1), (((8, 8),), 0, 1), (((8, 8),), 1, 0), (((0, 8),), 1, 1)])
def test_a_ring_that_holds_nothing_is_refused(sizes: tuple[tuple[tuple[int, int], ...], int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        RingLayout(*sizes)
