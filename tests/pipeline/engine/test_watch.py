"""A cluster that is lost is said to be, once; one that is busy, or was never in reach, is not."""

import socket
import threading

import pytest

from pipeline.engine.watch import MISSES, Door, Watch
from tests.ports import free_ports


class Looks(Door):
    """Counts, and tells of, its looks."""

    __slots__ = ()
    seen = threading.Semaphore(0)

    def is_shut(self) -> bool:
        try:
            return super().is_shut()
        finally:
            self.seen.release()


@pytest.fixture(autouse=True)
def _from_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Looks, "seen", threading.Semaphore(0))


def looked(times: int) -> None:
    for _ in range(times):
        assert Looks.seen.acquire(timeout=60)


def test_what_is_lost_is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as head, socket.create_server(("127.0.0.1", 0)) as node:
        watch = Watch([Looks("the head", *head.getsockname()), Looks("Ray here", *node.getsockname())], every_s=0.01)
        looked(2)
        port = node.getsockname()[1]
        node.close()
        watch.thread.join()
    said = capfd.readouterr().err
    assert said.count("\n") == 1
    assert f"warning: Ray here at 127.0.0.1:{port} does not answer: if it stays away Ray ends this run" in said


def test_a_busy_process_and_one_out_of_reach_are_not_taken_for_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as busy:  # it takes none of the connections
        doors = [Looks("busy", *busy.getsockname()), Looks("never there", "127.0.0.1", free_ports(1)[0])]
        watch = Watch(doors, every_s=0.01)
        looked(2 + 3 * MISSES)
        watch.end()
        watch.thread.join()
    assert capfd.readouterr().err == ""
