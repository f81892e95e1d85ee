"""Storage that fails, in one process: what passes costs time and no row, what stays becomes rows, nothing is harmed."""

import json
import random
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.errors import CredentialsLost, PipelineError
from pipeline.storage import patience, ranged, s3
from tests.faults import FaultProxy, Rule
from tests.flow import make_tar, run_here
from tests.helpers import rows, tree_bytes
from tests.proxied import noise, s3_client
from tests.tls import https_server
from tests.weed import ADMIN, READER, Weed

NAMES = [f"{number:02d}.png" for number in range(24)]
TRANSIENT = [
    Rule("503", "/loose/03.png", "GET", times=5),
    Rule("500", "/loose/05.png", "GET", times=3),
    Rule("rst", "/loose/07.png", "GET", times=2),
    Rule("midrst", "/loose/09.png", "GET", times=2, after=900),
    Rule("trunc", "/loose/11.png", "GET", times=2, after=900),
    Rule("stall", "/loose/13.png", "GET", times=1, after=900),
    Rule("stall", "/loose/15.png", "GET", times=1),
    Rule("slow", "/loose/17.png", "GET", times=1, bps=20_000),
    Rule("midrst", "/tars/a.tar", "GET", times=3, after=30_000),
    Rule("trunc", "/tars/b.tar", "GET", times=2, after=7),
    Rule("503", "/inb", "GET", query="list-type=2", times=2),
]
SOURCES = ["s3://inb/faults/loose/", "s3://inb/faults/tars/"]


@pytest.fixture(scope="module")
def undisturbed(weed: Weed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "loose").mkdir()
    for number, name in enumerate(NAMES):
        (folder / "loose" / name).write_bytes(noise(number))
    for letter in "ab":
        make_tar(folder / f"tars/{letter}.tar", [(f"{letter}{n}.png", noise(ord(letter) + n)) for n in range(20)])
    weed.put_tree(folder, "inb/faults")
    with pytest.MonkeyPatch.context() as patch, s3_client(weed.env, patch):
        assert run_here(SOURCES, folder / "out", span_size=8) == 0
    return folder / "out"


def of(output: Path, name: str) -> dict[str, str]:
    """A column by the last part of the uri."""
    table = rows(output)
    names = [uri.rsplit("/", 1)[1] for uri in table["uri"].to_pylist()]
    return dict(zip(names, table[name].to_pylist(), strict=True))


def test_faults_that_pass_cost_time_but_no_row(proxied: FaultProxy, undisturbed: Path, tmp_path: Path) -> None:
    proxied.fail(*TRANSIENT)
    assert run_here(SOURCES, tmp_path / "out", span_size=8) == 0
    assert proxied.hits() == [rule.times for rule in TRANSIENT]
    assert set(of(tmp_path / "out", "status").values()) == {"ok"}
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")


def test_images_that_stay_out_of_reach_are_rows_and_can_be_healed(
    proxied: FaultProxy, undisturbed: Path, tmp_path: Path
) -> None:
    proxied.fail(Rule("403", "/loose/03.png", "GET"), Rule("404", "/loose/07.png", "GET"), Rule("403", "b.tar", "GET"))
    assert run_here(SOURCES, tmp_path / "out", span_size=8) == 3
    status, error = of(tmp_path / "out", "status"), of(tmp_path / "out", "error")
    failed = {name: error[name] for name, found in status.items() if found != "ok"}
    assert failed == {
        "03.png": "access denied", "07.png": "not found", "b.tar": "the tar cannot be read on: access denied",
    }  # fmt: skip
    assert {status[name] for name in failed} == {"fetch_error"}
    assert not (tmp_path / "out/_SUCCESS").exists()
    proxied.reset()
    assert run_here(SOURCES, tmp_path / "out", span_size=8) == 3  # failed rows are finished until asked for
    assert not any("GET" in asked and ".png" in asked for asked in proxied.requests())
    assert run_here(SOURCES, tmp_path / "out", span_size=8, retry_failed=True) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")


def test_a_tar_that_breaks_off_for_good_keeps_what_came_before(
    proxied: FaultProxy, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranged, "BLOCK", 16 << 10)
    proxied.fail(Rule("latency", "/tars/a.tar", "GET", secs=0, times=5), Rule("403", "/tars/a.tar", "GET"))
    assert run_here(SOURCES, tmp_path / "out", span_size=8) == 3
    status = of(tmp_path / "out", "status")
    assert status["a.tar"] == "fetch_error"
    came = [name for name in status if name.startswith("a.tar#")]
    assert 5 < len(came) < 20
    proxied.reset()
    assert run_here(SOURCES, tmp_path / "out", span_size=8, retry_failed=True) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")


def test_credentials_lost_on_the_way_stop_the_run_and_harm_nothing(
    proxied: FaultProxy, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3, "LOOK_UPS", (0.0,))
    proxied.fail(Rule("expired", "/loose/20.png", "GET"), Rule("expired", "/tars/b.tar", "GET"))
    with pytest.raises(CredentialsLost, match="ExpiredToken") as caught:
        run_here(SOURCES, tmp_path / "out", span_size=8)
    assert isinstance(caught.value, PipelineError)
    assert caught.value.exit_code == 1
    proxied.reset()
    assert run_here(SOURCES, tmp_path / "out", span_size=8) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")


def test_expired_credentials_are_looked_up_again(
    weed: Weed, fault_proxy: FaultProxy, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A provider that gives the administrator's keys first, which expire in mid-run, and then a reader's."""
    provider, asked = tmp_path / "provider.sh", tmp_path / "asked"
    keys = [{"Version": 1, "AccessKeyId": i.access_key, "SecretAccessKey": i.secret_key} for i in (ADMIN, READER)]
    first, then = map(json.dumps, keys)
    provider.write_text(f"if [ -e {asked} ]; then echo '{then}'; else echo '{first}'; fi; echo asked >> {asked}\n")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = sh {provider}\n")
    env = {name: value for name, value in fault_proxy.env(weed.env).items() if "KEY" not in name}
    fault_proxy.fail(Rule("expired", "/loose/20.png", "GET", signer=ADMIN.access_key))
    with s3_client(env | {"AWS_CONFIG_FILE": str(tmp_path / "config")}, monkeypatch):
        assert run_here(SOURCES, tmp_path / "out", span_size=8) == 0
    assert tree_bytes(tmp_path / "out/data") == tree_bytes(undisturbed / "data")
    assert fault_proxy.hits()[0] >= 1
    assert asked.read_text().split() == ["asked", "asked"]


def test_writes_without_a_reply_end_and_are_not_taken_for_somebody_elses(
    proxied: FaultProxy, undisturbed: Path, weed: Weed
) -> None:
    rules = [
        Rule("lost", "_run.json", "PUT", times=1), Rule("503", "_run.json", "PUT", times=1),
        Rule("lost", "/plan/part-", "PUT", times=1), Rule("rst", "/plan/part-", "PUT", times=1),
        Rule("lost", "/plan/shard-", "PUT", times=1), Rule("500", "/plan/shard-", "PUT", times=1),
        Rule("503", "/data/", "PUT", times=2), Rule("rst", "/data/", "PUT", times=1),
        Rule("lost", "/data/", "PUT", times=2), Rule("lost", "/runs/", "PUT", times=1),
        Rule("stall", "/data/", "PUT", times=1), Rule("mute", "/data/", "PUT", times=1),
        Rule("503", "_SUCCESS", "PUT", times=1),
    ]  # fmt: skip
    proxied.fail(*rules)
    assert run_here(SOURCES, "s3://outb/puts", span_size=8) == 0
    assert proxied.hits() == [rule.times for rule in rules]
    assert tree_bytes("outb/puts/data", weed.fs()) == tree_bytes(undisturbed / "data")
    names = list(tree_bytes("outb/puts", weed.fs()))
    assert sum(name.startswith("plan/part-") for name in names) == 1
    assert run_here(SOURCES, "s3://outb/puts", span_size=8) == 0


def test_a_run_that_finds_all_finished_reads_no_image(proxied: FaultProxy, undisturbed: Path) -> None:
    proxied.reset()
    assert run_here(SOURCES, undisturbed, span_size=8) == 0
    assert proxied.bytes().keys() <= {"inb"}  # the listings


@pytest.mark.parametrize("where", ["/data/", "/plan/", "/runs/"])
def test_an_output_that_takes_no_more_files_stops_the_run_with_one_sentence(
    proxied: FaultProxy, undisturbed: Path, weed: Weed, where: str
) -> None:
    output = f"s3://outb/full{where.strip('/')}"
    proxied.fail(Rule("403", where, "PUT"))
    with pytest.raises(PipelineError, match=f"{output} cannot be written .access denied.; finished") as caught:
        run_here(SOURCES, output, span_size=8)
    assert caught.value.exit_code == 1
    proxied.reset()
    assert run_here(SOURCES, output, span_size=8) == 0
    assert tree_bytes(output.removeprefix("s3://") + "/data", weed.fs()) == tree_bytes(undisturbed / "data")


@pytest.mark.torture
def test_an_upload_by_https_may_take_longer_than_a_request_may_hang(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = random.Random(1).randbytes(24 << 20)
    # Fast enough that what sockets hold at the end is there well within the time for an answer.
    with https_server(weed.port, tmp_path, bps=8 << 20) as env, s3_client(weed.env | env, monkeypatch):
        monkeypatch.setattr(patience, "OUTSIDE_S", 0.0)
        assert storage.create("s3://outb/https/slow", data)
        assert storage.read("s3://outb/https/slow") == data
