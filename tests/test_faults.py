"""What a client of the fault proxy meets, kind by kind: s3fs against a real server."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import s3fs
from botocore.exceptions import BotoCoreError

from tests.faults import FaultProxy, Rule, fault_proxy_server
from tests.ports import free_ports
from tests.weed import Weed, filesystem

BODY = bytes(range(256)) * 2000
CUTS = [
    Rule("rst", method="GET"),
    Rule("midrst", method="GET", after=1000),
    Rule("trunc", method="GET", after=1000),
]
KEY = "inb/faults/a b+c=ü.bin"


@pytest.fixture(scope="module")
def one_attempt(weed: Weed, fault_proxy_session: FaultProxy) -> s3fs.S3FileSystem:
    weed.fs().pipe_file(KEY, BODY)
    fs = filesystem(fault_proxy_session.env(weed.env))
    fs.retries = 1
    fs.config_kwargs = {"retries": {"total_max_attempts": 1}, "read_timeout": 2}
    return fs


@pytest.fixture
def client(one_attempt: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> s3fs.S3FileSystem:
    """Through the proxy, which has no rules yet, with one attempt only: every fault is seen."""
    assert fault_proxy.requests() == {}
    return one_attempt


def test_without_rules_everything_passes(client: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> None:
    client.pipe_file("outb/faults/copy", BODY)
    assert client.cat_file(KEY) == BODY
    assert client.cat_file(KEY, start=10, end=20) == BODY[10:20]
    assert client.find("outb/faults") == ["outb/faults/copy"]
    assert client.info(KEY)["size"] == len(BODY)
    counted = fault_proxy.requests()
    assert (counted[f"GET {KEY}"], counted["PUT outb/faults/copy"]) == (2, 1)
    assert fault_proxy.bytes()[KEY] == len(BODY) + 10


def test_large_bodies_pass_in_parts(client: s3fs.S3FileSystem) -> None:
    large = BODY * 24
    client.pipe_file("outb/faults/large", large, chunksize=5 << 20)
    assert client.cat_file("outb/faults/large") == large


@pytest.mark.parametrize(
    ("kind", "error"),
    [("503", OSError), ("500", OSError), ("403", PermissionError), ("404", FileNotFoundError)],
)
def test_error_replies_arrive_as_such(
    client: s3fs.S3FileSystem, fault_proxy: FaultProxy, kind: str, error: type[OSError]
) -> None:
    fault_proxy.fail(Rule(kind, match="a b+c=ü", times=1))
    with pytest.raises(error):
        client.cat_file(KEY)
    assert client.cat_file(KEY) == BODY
    assert fault_proxy.hits() == [1]


def test_expired_credentials_are_named(client: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> None:
    fault_proxy.fail(Rule("expired", method="GET"))
    with pytest.raises(OSError, match="injected: expired"):
        client.cat_file(KEY)


@pytest.mark.parametrize("kind", ["503", "rst", "lost"])
def test_failed_puts_can_be_repeated(weed: Weed, client: s3fs.S3FileSystem, fault_proxy: FaultProxy, kind: str) -> None:
    key = f"outb/faults/put-{kind}"
    fault_proxy.fail(Rule(kind, method="PUT"))
    with pytest.raises((OSError, BotoCoreError)):
        client.pipe_file(key, BODY)
    assert weed.fs().exists(key) == (kind == "lost")
    fault_proxy.fail()
    client.pipe_file(key, BODY)
    assert weed.fs().cat_file(key) == BODY


@pytest.mark.parametrize("kind", ["stall", "mute"])
def test_a_client_that_waits_in_vain_may_have_been_heard(
    weed: Weed, client: s3fs.S3FileSystem, fault_proxy: FaultProxy, kind: str
) -> None:
    key = f"outb/faults/unanswered-{kind}"
    fault_proxy.fail(Rule(kind, method="PUT", secs=1.0))
    with pytest.raises((OSError, BotoCoreError)):
        client.pipe_file(key, BODY)
    assert fault_proxy.silences() == fault_proxy.hits() != [0]
    assert weed.fs().exists(key) == (kind == "mute")


def test_a_client_that_dies_within_its_body_has_put_nothing(weed: Weed) -> None:
    with fault_proxy_server(weed.port) as proxy:
        _, _, target = filesystem(proxy.env(weed.env)).url("outb/faults/half", client_method="put_object").split("/", 2)
        host, _, path = target.partition("/")
        line = socket.create_connection(("127.0.0.1", proxy.port))
        line.sendall(f"PUT /{path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 9\r\n\r\nhalf".encode())
        wait_until(proxy.requests)
        assert proxy.clients() == 1
        line.close()
        wait_until(lambda: proxy.clients() == 0)
    assert not weed.fs().exists("outb/faults/half")


def wait_until(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("rule", CUTS)
def test_cut_connections_never_pass_for_whole(client: s3fs.S3FileSystem, fault_proxy: FaultProxy, rule: Rule) -> None:
    fault_proxy.fail(rule)
    with pytest.raises(Exception, match=r".+"):
        client.cat_file(KEY)
    assert fault_proxy.bytes().get(KEY, 0) == rule.after * fault_proxy.hits()[0]
    fault_proxy.fail()
    assert client.cat_file(KEY) == BODY


@pytest.mark.parametrize("after", [0, 1000])
def test_a_stall_keeps_the_client_waiting(client: s3fs.S3FileSystem, fault_proxy: FaultProxy, after: int) -> None:
    fault_proxy.fail(Rule("stall", after=after, secs=1.0))
    began = time.monotonic()
    with pytest.raises(Exception, match=r".+"):
        client.cat_file(KEY)
    assert time.monotonic() - began > 0.9


def test_latency_delays_and_then_answers(client: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> None:
    fault_proxy.fail(Rule("latency", secs=0.5))
    began = time.monotonic()
    assert client.cat_file(KEY) == BODY
    assert time.monotonic() - began > 0.5


def test_slow_replies_keep_their_rate(client: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> None:
    fault_proxy.fail(Rule("slow", bps=len(BODY)))
    began = time.monotonic()
    assert client.cat_file(KEY) == BODY
    assert 0.8 < time.monotonic() - began < 4


def test_rules_choose_by_query_too(client: s3fs.S3FileSystem, fault_proxy: FaultProxy) -> None:
    fault_proxy.fail(Rule("403", query="prefix=faults/"))
    assert client.cat_file(KEY) == BODY
    with pytest.raises(PermissionError):
        client.find("inb/faults")


def test_default_retries_outlast_a_few_faults(weed: Weed, fault_proxy: FaultProxy) -> None:
    weed.fs().pipe_file(KEY, BODY)
    fault_proxy.fail(Rule("503", times=2), Rule("midrst", after=500, times=1, method="GET"))
    assert filesystem(fault_proxy.env(weed.env)).cat_file(KEY) == BODY
    assert fault_proxy.hits() == [2, 1]


def wait_for(proxy: FaultProxy) -> None:
    for _ in range(100):
        try:
            proxy.reset()
            return
        except OSError:
            time.sleep(0.1)


def test_proxy_runs_on_its_own(weed: Weed) -> None:
    port = free_ports(1)[0]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.faults", "--upstream", str(weed.port), "--port", str(port)]
    )
    try:
        proxy = FaultProxy(port)
        wait_for(proxy)
        weed.fs().pipe_file(KEY, BODY)
        assert filesystem(proxy.env(weed.env)).cat_file(KEY) == BODY
        assert proxy.bytes() == {KEY: len(BODY)}
    finally:
        process.terminate()
        process.wait(10)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind of fault 'boom'"):
        Rule("boom")
