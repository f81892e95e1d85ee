"""Ctrl-C, SIGTERM, a full disk, two runs at once, and keys that must stay secret."""

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.faults import FaultProxy, Rule
from tests.flow import make_tar, png
from tests.helpers import run_job, tree_bytes
from tests.proxied import named, noise
from tests.torture.conftest import Tally
from tests.torture.proof import FLAGS, compare, files, more_than, start, start_command, wait_until
from tests.weed import Weed

pytestmark = [pytest.mark.torture, pytest.mark.timeout(600)]
GRACE_S = 3  # `ray job stop` kills after that


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("interrupts")
    members = named(1000)
    for number in range(50):
        make_tar(folder / f"in/t{number:02d}.tar", members[20 * number : 20 * number + 20])
    return folder / "in"


@pytest.fixture(scope="module")
def undisturbed(source: Path) -> Path:
    run_job("label.py", "--input", source, "--output", source.parent / "whole", *FLAGS, "--local", code=0)
    return source.parent / "whole"


def interrupt(job: subprocess.Popen[str], number: int) -> tuple[str, float]:
    began = time.monotonic()
    job.send_signal(number)
    said, _ = job.communicate(timeout=120)
    return said, time.monotonic() - began


@pytest.mark.parametrize("mode", [["--local"], ["--workers", 2]], ids=["local", "ray"])
def test_interrupts_end_promptly_and_say_how_to_go_on(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally, mode: list[object]
) -> None:
    output, took = tmp_path / "out", []
    for number, target in ((signal.SIGINT, 3), (signal.SIGTERM, 40)):
        job = start("--input", source, "--output", output, *FLAGS, *mode)
        assert wait_until(more_than(output, target), job)
        said, seconds = interrupt(job, number)
        took.append(round(seconds, 1))
        assert job.returncode == 1, said
        assert "interrupted: nothing finished is lost, the same command continues" in said
        assert "Traceback" not in said
        assert not [name for name in tree_bytes(output) if name.endswith(".tmp")]
    before = files(output)
    run_job("label.py", "--input", source, "--output", output, *FLAGS, "--local", code=0)
    assert before.items() <= files(output).items()
    compare(tally, f"SIGINT, SIGTERM ({mode[0]}; {took[0]} and {took[1]} s)", 2, output, undisturbed)


def test_an_interrupt_does_not_wait_for_a_storage_that_is_silent(
    weed: Weed, fault_proxy: FaultProxy, tmp_path: Path, tally: Tally
) -> None:
    for number in range(20):
        weed.fs().pipe_file(f"inb/silent/{number:02d}.png", noise(number))
    fault_proxy.fail(Rule("stall", "/silent/1", "GET"))
    job = start("--input", "s3://inb/silent/", "--output", tmp_path / "out", *FLAGS, "--local",
                env=fault_proxy.env(weed.env))  # fmt: skip
    assert wait_until(lambda: fault_proxy.hits()[0] > 0, job)
    said, seconds = interrupt(job, signal.SIGTERM)
    tally(f"SIGTERM while storage is silent ({seconds:.1f} s)", injected=1, lost=0, duplicated=0)
    assert "the same command continues" in said
    assert job.returncode == 1


def test_a_full_disk_stops_the_run_with_a_sentence(tmp_path: Path, tally: Tally) -> None:
    """No file may become larger than 8 MiB, which is room for shared memory and not for a span with what it keeps."""
    source, chance = tmp_path / "in/large.tar", random.Random(0)
    members = [[(f"{key}.png", png(key)), (f"{key}.bin", chance.randbytes(3 << 20))] for key in range(12)]
    make_tar(source, [member for sample in members for member in sample])
    keep: list[object] = ["--keep", "bin"]
    run_job("label.py", "--input", source, "--output", tmp_path / "whole", *FLAGS, *keep, "--local", code=0)
    job = subprocess.Popen(
        ["bash", "-c", 'ulimit -f 8192; exec "$0" "$@"', *map(str, [*start_command(source, tmp_path / "out"), *keep])],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    said, _ = job.communicate(timeout=120)
    assert job.returncode == 1, said
    assert "cannot be written (File too large); finished spans are safe" in said
    assert "Traceback" not in said
    run_job("label.py", "--input", source, "--output", tmp_path / "out", *FLAGS, *keep, "--local", code=0)
    compare(tally, "disk full", 1, tmp_path / "out", tmp_path / "whole")


def test_two_runs_at_once_end_with_one_correct_output(
    source: Path, undisturbed: Path, tmp_path: Path, tally: Tally
) -> None:
    folder = tmp_path / "in"
    for name, data in named(90):
        folder.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    run_job("label.py", "--input", folder, "--output", tmp_path / "whole", *FLAGS, "--local", code=0)
    for given, whole in ((folder, tmp_path / "whole"), (source, undisturbed)):
        output = tmp_path / f"out-{whole.parent.name}"
        jobs = [start("--input", given, "--output", output, *FLAGS, "--local") for _ in range(2)]
        for job in jobs:
            said, _ = job.communicate(timeout=240)
            assert job.returncode == 0, said
            assert "missing 0, duplicates 0" in said
        compare(tally, "two runs at once", 2, output, whole)


def test_keys_are_said_nowhere(weed: Weed, fault_proxy: FaultProxy, tmp_path: Path, tally: Tally) -> None:
    secrets = [weed.env["AWS_SECRET_ACCESS_KEY"].encode(), weed.env["AWS_ACCESS_KEY_ID"].encode()]
    for number in range(6):
        weed.fs().pipe_file(f"inb/secret/{number}.png", noise(number))
    rules = [Rule("403", "/secret/1.png", "GET"), Rule("500", "/secret/2.png", "GET"), Rule("404", "/secret/3", "GET")]
    flags = ["--input", "s3://inb/secret/", "--output", tmp_path / "out", *FLAGS, "--local", "--verbose"]
    said = b""
    for last in (Rule("expired", "/secret/4.png", "GET"), Rule("403", "/secret/4.png", "GET")):
        fault_proxy.fail(*rules, last)
        done = run_job("label.py", *flags, env=fault_proxy.env(weed.env))
        assert done.returncode in (1, 3)
        said += (done.stdout + done.stderr).encode()
    bad = run_job("label.py", *flags[:2], "--output", tmp_path / "bad", *FLAGS, "--local", code=2,
                  env=weed.env | {"AWS_SECRET_ACCESS_KEY": "x" + weed.env["AWS_SECRET_ACCESS_KEY"]})  # fmt: skip
    said += (bad.stdout + bad.stderr).encode()
    everything = b"".join(tree_bytes(tmp_path).values()) + said
    found = sum(everything.count(secret) for secret in secrets)
    tally("keys looked for in logs, reports and files", injected=len(secrets), lost=found, duplicated=0)
    assert found == 0
