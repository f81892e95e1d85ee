"""A storage that is away for a while, in one process: it is waited for, and no image is blamed for it."""

import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.errors import ConfigError, PatienceSpent
from pipeline.source.format import FORMATS
from pipeline.source.item import Position, Wanted
from pipeline.storage import ranged
from tests.faults import FaultProxy, Rule, fault_proxy_server
from tests.flow import make_tar, run_here
from tests.helpers import rows, tree_bytes
from tests.ports import free_ports
from tests.proxied import noise, s3_client
from tests.weed import Weed

SOURCE = "s3://inb/outage/"
FLAGS = {"span_size": 8, "task": "brightness"}


@pytest.fixture(scope="module")
def undisturbed(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outage")
    (folder / "in").mkdir()
    for number in range(16):
        (folder / f"in/{number:02d}.png").write_bytes(noise(number))
    make_tar(folder / "in/a.tar", [(f"{n}.png", noise(100 + n)) for n in range(20)])
    weed.put_tree(folder / "in", "inb/outage")
    with pytest.MonkeyPatch.context() as patch, s3_client(weed.env, patch):
        assert run_here(SOURCE, folder / "out", **FLAGS) == 0
    return folder / "out"


def test_a_run_outlasts_throttling_and_then_refused_connections(
    weed: Weed, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def fail_and_return(proxy: FaultProxy) -> None:
        while sum(proxy.hits()) < 3:
            time.sleep(0.01)
        time.sleep(3)
        first.__exit__(None, None, None)
        time.sleep(2)
        with fault_proxy_server(weed.port, proxy.port):
            ended.wait()

    first = fault_proxy_server(weed.port)
    proxy = first.__enter__()
    proxy.fail(Rule("503", "/outage/", "GET"))
    with s3_client(proxy.env(weed.env), monkeypatch):
        helper = threading.Thread(target=fail_and_return, args=(proxy,))
        helper.start()
        try:
            assert run_here(SOURCE, tmp_path / "out", patience=60, **FLAGS) == 0
        finally:
            ended.set()
            helper.join()
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")
    assert "storage throttles: " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("output", "rule"),
    [
        ("outb/reads", Rule("503", "/outage/", "GET")),
        pytest.param("outb/silence", Rule("stall", "/outage/", "GET"), marks=pytest.mark.torture),
        ("outb/writes", Rule("500", "/data/", "PUT")),
        ("outb/plans", Rule("rst", "/plan/", "PUT")),
    ],
)
def test_patience_ends_and_the_same_command_continues(
    proxied: FaultProxy, undisturbed: Path, weed: Weed, output: str, rule: Rule
) -> None:
    proxied.fail(rule)
    with pytest.raises(PatienceSpent, match=r"for 2 s \(--patience\); nothing finished is lost, the same") as caught:
        run_here(SOURCE, f"s3://{output}", patience=2, **FLAGS)
    assert caught.value.exit_code == 1
    assert "_SUCCESS" not in tree_bytes(output, weed.fs())
    proxied.reset()
    assert run_here(SOURCE, f"s3://{output}", **FLAGS) == 0
    assert tree_bytes(f"{output}/data", weed.fs()) == tree_bytes(undisturbed / "data")


def test_an_object_that_fails_while_others_are_read_is_a_row(
    proxied: FaultProxy, undisturbed: Path, tmp_path: Path
) -> None:
    proxied.fail(Rule("500", "/outage/03.png", "GET"))
    assert run_here(SOURCE, tmp_path / "out", patience=6, **FLAGS) == 3
    failed = [row for row in rows(tmp_path / "out").to_pylist() if row["status"] != "ok"]
    assert [(row["key"], row["status"], row["error"]) for row in failed] == [
        ("03.png", "fetch_error", "the storage answered InternalError")
    ]
    proxied.reset()
    assert run_here(SOURCE, tmp_path / "out", retry_failed=True, **FLAGS) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")


def tar_of(members: list[tuple[str, bytes]], folder: Path) -> bytes:
    return make_tar(folder / "x.tar", members).read_bytes()


def zip_of(members: list[tuple[str, bytes]], folder: Path) -> bytes:
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return (folder / "x.zip").read_bytes()


def parquet_of(members: list[tuple[str, bytes]], _: Path) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [data for _, data in members]}), sink, row_group_size=2)
    return sink.getvalue()


@pytest.mark.parametrize(("kind", "make"), [("tar", tar_of), ("zip", zip_of), ("parquet", parquet_of)])
def test_no_format_takes_an_outage_for_damage(
    proxied: FaultProxy, weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str,
    make: Callable[[list[tuple[str, bytes]], Path], bytes],
) -> None:  # fmt: skip
    monkeypatch.setattr(ranged, "BLOCK", 16 << 10)
    weed.fs().pipe_file(f"inb/shards/x.{kind}", make([(f"{n}.png", noise(n, 64)) for n in range(12)], tmp_path))
    entry = storage.stat(f"s3://inb/shards/x.{kind}")
    assert entry is not None
    proxied.fail(Rule("latency", "/shards/", "GET", secs=0, times=4), Rule("503", "/shards/", "GET"))
    storage.be_patient(1)
    try:
        with pytest.raises(PatienceSpent, match="SlowDown"):
            list(FORMATS[kind].items(entry, Wanted(frozenset({"png"})), Position()))
    finally:
        storage.be_patient(None)


def test_a_file_that_cannot_be_looked_into_is_not_taken_for_an_image(
    proxied: FaultProxy, weed: Weed, tmp_path: Path
) -> None:
    make_tar(tmp_path / "a.tar", [("a.png", noise(1)), ("b.png", noise(2))])
    weed.fs().put_file(str(tmp_path / "a.tar"), "inb/nameless/night")
    proxied.fail(Rule("500", "/nameless/", "GET"))
    with pytest.raises(
        ConfigError, match=r"does not say what it is, and it cannot be read .*: --input-format says it$"
    ):
        run_here("s3://inb/nameless/night", tmp_path / "out", **FLAGS)
    assert not (tmp_path / "out").exists()
    proxied.reset()
    assert run_here("s3://inb/nameless/night", tmp_path / "out", **FLAGS) == 0
    assert rows(tmp_path / "out")["key"].to_pylist() == ["a", "b"]
    weed.fs().pipe_file("inb/nameless/empty", b"")
    assert run_here("s3://inb/nameless/empty", tmp_path / "empty", max_failed=1.0, **FLAGS) == 0
    assert rows(tmp_path / "empty")["error"].to_pylist() == ["the file is empty"]


class Moody(ThreadingHTTPServer):
    """A web server of PNGs: throttles the first requests, and always fails for one name."""

    daemon_threads = True
    throttled = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server = self.server
            assert isinstance(server, Moody)
            busy, server.throttled = server.throttled > 0, server.throttled - 1
            status = 503 if busy else 500 if "broken" in self.path else 404 if "gone" in self.path else 200
            body = noise(len(self.path)) if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""


@pytest.fixture
def web() -> Iterator[Moody]:
    with Moody(("127.0.0.1", 0), Moody.Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.torture
def test_web_servers_are_waited_for_too(web: Moody, tmp_path: Path) -> None:
    """One that has never answered is judged by the others: a list of the web's images has dead hosts in it."""
    here, dead = f"http://127.0.0.1:{web.server_port}", f"http://127.0.0.1:{free_ports(1)[0]}"
    names = [f"{here}/{'x' * number}.png" for number in range(1, 9)]
    lost = [f"{dead}/{number}.png" for number in range(40)]
    (tmp_path / "list.txt").write_text("\n".join([*names, f"{here}/broken.png", f"{here}/gone.png", *lost]))
    web.throttled = 4  # one after the other with growing pauses, 12 took longer than the dead hosts may be waited for
    assert run_here(tmp_path / "list.txt", tmp_path / "out", patience=16, **FLAGS) == 3
    table = rows(tmp_path / "out").to_pylist()
    assert {row["uri"]: row["error"] for row in table if row["status"] != "ok"} == {
        f"{here}/broken.png": "the server answered 500",
        f"{here}/gone.png": "not found",
        **dict.fromkeys(lost, "the server cannot be reached or broke off (ClientConnectorError)"),
    }
    assert len(table) == len(names) + 2 + len(lost)
