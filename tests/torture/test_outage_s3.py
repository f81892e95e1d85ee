"""S3 away for a minute in mid-run, twice: once it throttles everything, once it refuses connections."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.faults import FaultProxy, Rule, fault_proxy_server
from tests.flow import DIGITS, make_tar, run_here
from tests.proxied import named, s3_client
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, SPAN, compare, kill, start, wait_until
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(900)]
AWAY_S = 60
PATIENCE_S = 10
SLOW = Rule("latency", "/data/", "PUT", secs=0.5)  # so that the run is still under way when it is to be disturbed


@pytest.fixture(scope="module")
def undisturbed(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, members = tmp_path_factory.mktemp("away"), named(400)
    for number in range(10):
        make_tar(folder / f"in/t{number}.tar", members[20 * number : 20 * number + 20])
    for name, data in members[200:]:
        (folder / "in" / name).write_bytes(data)
    weed.put_tree(folder / "in", "inb/away")
    with pytest.MonkeyPatch.context() as patch, s3_client(weed.env, patch):
        assert run_here("s3://inb/away/", folder / "out", **SPAN) == 0
    return folder / "out"


@pytest.mark.parametrize(("how", "flags"), [("local", ["--local"]), ("Ray", ["--workers", 2])])
def test_a_storage_that_is_away_for_a_minute(
    weed: Weed, fs: Any, proxied: FaultProxy, undisturbed: Path, tally: Tally, how: str, flags: list[object]
) -> None:
    """No failed row; how soon the work went on is in the table."""
    assert proxied.requests() == {}
    output = f"outb/away-{how}"
    with ExitStack() as first, ExitStack() as second:
        proxy = first.enter_context(fault_proxy_server(weed.port))
        proxy.fail(SLOW)
        job = start("--input", "s3://inb/away/", "--output", f"s3://{output}", *FLAGS, *flags, env=proxy.env(weed.env))
        assert wait_until(lambda: written(proxy, output), job)
        proxy.fail(Rule("503"))
        time.sleep(AWAY_S)
        back = [seconds(lambda: went_on(proxy, output, job))]
        first.close()
        time.sleep(AWAY_S)
        proxy = second.enter_context(fault_proxy_server(weed.port, proxy.port))
        back.append(seconds(lambda: wait_until(lambda: written(proxy, output), job)))
        said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    assert "storage throttles: " in said
    assert "storage does not answer: " in said
    fault = f"storage away for {AWAY_S} s twice ({how}), at work again in {back[0]:.0f} and {back[1]:.0f} s"
    compare(tally, fault, 2, output, undisturbed, fs)


def written(proxy: FaultProxy, output: str) -> int:
    return sum(count for asked, count in proxy.requests().items() if f"PUT {output}/data/" in asked)


def went_on(proxy: FaultProxy, output: str, job: Any) -> None:
    before = written(proxy, output)
    proxy.fail(SLOW)
    assert wait_until(lambda: written(proxy, output) > before, job)


def seconds(do: Callable[[], object]) -> float:
    began = time.monotonic()
    do()
    return time.monotonic() - began


def test_a_storage_that_is_away_when_workers_start_is_waited_for_once(weed: Weed, tmp_path: Path, tally: Tally) -> None:
    """The model lies on it. Every start of a worker would wait anew: Ray starts one twenty times."""
    weed.put_tree(DIGITS / "model", "inb/model")
    make_tar(tmp_path / "in/a.tar", named(20))
    with fault_proxy_server(weed.port) as proxy:
        flags = ["--model", "s3://inb/model", "--workers", 2, "--patience", PATIENCE_S]
        job = start("--input", tmp_path / "in", "--output", tmp_path / "out", *flags, env=proxy.env(weed.env))
        assert wait_until((tmp_path / "out/_run.json").exists, job)
        proxy.fail(Rule("503", "/model"))
        try:
            said, _ = job.communicate(timeout=10 * PATIENCE_S)
        finally:
            kill(job)
    assert job.returncode == 1, said
    assert f"for {PATIENCE_S} s (--patience)" in said.splitlines()[-1]
    tally("storage away when workers start", injected=1, lost=0, duplicated=0)
