"""How a failing storage is waited for: how long, how gently, and when it is the object that is at fault."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline import storage
from pipeline.errors import ObjectUnreadable, PatienceSpent
from pipeline.storage import Entry, host, patience
from tests.faults import FaultProxy, Rule
from tests.weed import Weed

URI = "s3://inb/patience/x"
OTHERS = [f"s3://inb/patience/{number}" for number in range(24)]


def open_and_read() -> None:
    with storage.open_stream(Entry(URI, 10, "")) as stream:
        stream.read()


ASK: dict[str, Callable[[], object]] = {
    "read": lambda: storage.read(URI),
    "create": lambda: storage.create(URI, b"x"),
    "list": lambda: list(storage.listing("s3://inb/patience/")),
    "stream": open_and_read,
}


@pytest.fixture
def there(weed: Weed) -> None:
    for uri in [URI, *OTHERS]:
        weed.fs().pipe_file(uri.removeprefix("s3://"), b"0123456789")


@pytest.fixture
def in_run() -> Iterator[Callable[..., None]]:
    """`in_run(seconds)`: this process works for a run with such a --patience."""
    yield storage.be_patient
    storage.be_patient(None)


@pytest.mark.parametrize("kind", ["500", "rst"])
@pytest.mark.parametrize("what", ASK)
def test_within_quick_an_outage_is_known_after_a_few_tries(proxied: FaultProxy, what: str, kind: str) -> None:
    proxied.fail(Rule(kind))
    with storage.quick(), pytest.raises(ObjectUnreadable, match="the storage"):
        ASK[what]()
    assert proxied.hits()[0] in (patience.QUICK_TRIES, 2 * patience.QUICK_TRIES)  # aiohttp asks twice after a reset


@pytest.mark.parametrize("patience_s", [0, 600])
def test_within_quick_silence_is_waited_for_once(
    patience_s: int, proxied: FaultProxy, in_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However short --patience is, the run has not begun: the address is wrong."""
    monkeypatch.setattr(patience, "QUICK_S", 0.0)  # so that a fault counts as one that took long to come
    proxied.fail(Rule("500"))
    in_run(patience_s)
    with storage.quick(), pytest.raises(ObjectUnreadable, match=patience.CHECK[:17]):
        storage.read(URI)
    assert proxied.hits() == [1]


@pytest.mark.torture
@pytest.mark.usefixtures("there")
def test_within_quick_throttling_is_waited_for(proxied: FaultProxy, in_run: Callable[..., None]) -> None:
    proxied.fail(Rule("503", times=6))
    in_run(60)
    with storage.quick():
        assert storage.read(URI) == b"0123456789"
    assert proxied.hits() == [6]


def test_threads_that_read_for_a_quick_one_are_quick(proxied: FaultProxy) -> None:
    proxied.fail(Rule("500"))
    with storage.quick():
        found = list(storage.read_many([f"{URI}{number}" for number in range(4)]))
    assert all(isinstance(data, ObjectUnreadable) for data in found)
    assert proxied.hits() == [4 * patience.QUICK_TRIES]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("what", ASK)
def test_a_storage_that_answers_nobody_ends_the_run(
    proxied: FaultProxy, in_run: Callable[..., None], what: str
) -> None:
    in_run(2)
    assert storage.read(OTHERS[0])
    proxied.fail(Rule("500"))
    with pytest.raises(PatienceSpent, match=r"s3://inb: .* InternalError, for 2 s \(--patience\).* same command"):
        ASK[what]()


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("kind", ["500", "503", "rst", "trunc"])
def test_while_others_can_be_read_the_object_is_at_fault(
    proxied: FaultProxy, in_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(patience, "OBJECT_S", 1.0)
    in_run(60)
    assert storage.read(OTHERS[0])
    for start in range(9):  # as a shard is read, in ranges
        assert storage.read(URI, start, start + 1)
    proxied.fail(Rule(kind, "/patience/x", "GET", after=3))
    assert isinstance(storage.try_read(URI), ObjectUnreadable)
    asked = proxied.requests()
    assert asked["GET inb/patience/0"] > 2  # nobody else was reading: it was asked whether others can be read
    assert storage.read(OTHERS[1])


@pytest.mark.usefixtures("there")
def test_no_pause_sleeps_past_the_verdict(
    proxied: FaultProxy, in_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short pauses and then a long one, from just before half of --patience to its end."""
    pauses = iter([0.5, 0.5, 0.5, 0.5])
    monkeypatch.setattr(patience.random, "uniform", lambda *_: next(pauses, 1.0))
    in_run(2.7)
    assert storage.read(OTHERS[0])
    proxied.fail(Rule("500", "/patience/x", "GET"))
    assert isinstance(storage.try_read(URI), ObjectUnreadable)


def test_requests_that_no_verdict_ends_pause_too(in_run: Callable[..., None]) -> None:
    """Such as writes: whether their host is at fault is nothing that they decide."""
    in_run(60)
    dead = host.host_of("s3://dead/x")
    dead.evidence.alone_s = 100.0
    waiting = patience._Waiting("s3://dead/x", dead, None, host.Fault("no"), 0.0)
    waiting.tries = 3
    assert waiting._pause_s() > 0


@pytest.mark.usefixtures("there")
def test_an_object_that_may_not_be_read_is_known_at_once(proxied: FaultProxy, in_run: Callable[..., None]) -> None:
    in_run(60)
    for kind, said in (("403", "access denied"), ("404", "not found")):
        proxied.reset()
        proxied.fail(Rule(kind, "/patience/x", "GET"))
        assert str(storage.try_read(URI)) == said
        assert proxied.hits() == [1]


@pytest.mark.usefixtures("there")
def test_under_throttling_fewer_requests_are_in_flight_and_the_user_is_told(
    proxied: FaultProxy, in_run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "QUIET_S", -1.0)
    monkeypatch.setattr(host, "TELL_S", 0.0)
    lines: list[str] = []
    in_run(60, lines.append)
    proxied.fail(Rule("503", times=44))
    with ThreadPoolExecutor(len(OTHERS)) as pool:
        assert set(pool.map(storage.read, OTHERS)) == {b"0123456789"}
    told = [int(line.removeprefix("storage throttles: ").split()[0]) for line in lines]
    assert max(told) > min(told)
    assert min(told) < 6


def test_a_window_halves_once_a_round_and_grows_by_one_a_round() -> None:
    found = host.Host("s3://of-this-test")

    def fail() -> None:
        raise host.Fault("no", throttled=True)

    def together(count: int, do: Callable[[], None]) -> None:
        met = threading.Barrier(count)

        def one() -> None:
            met.wait()
            do()

        with ThreadPoolExecutor(count) as pool:
            for done in [pool.submit(found.let_through, one, time.monotonic() + 60) for _ in range(count)]:
                done.exception()

    together(16, fail)
    assert found.window == 8
    together(8, fail)
    assert found.window == 4
    together(4, lambda: None)
    assert 4.5 < found.window <= 5


@pytest.mark.torture
@pytest.mark.usefixtures("there")
def test_a_failing_host_is_judged_by_others_only_if_it_has_never_answered(
    weed: Weed, proxied: FaultProxy, in_run: Callable[..., None]
) -> None:
    weed.fs().pipe_file("outb/patience/x", b"there")
    proxied.fail(Rule("500", "/outb/", "GET"))
    in_run(4)
    assert storage.read(URI)
    assert isinstance(storage.try_read("s3://outb/patience/x"), ObjectUnreadable)
    assert isinstance(storage.try_read("s3://outb/patience/x"), ObjectUnreadable)
    proxied.fail()
    assert storage.read("s3://outb/patience/x") == b"there"
    proxied.fail(Rule("500", "/outb/", "GET"))
    with pytest.raises(PatienceSpent):
        storage.try_read("s3://outb/patience/x")
