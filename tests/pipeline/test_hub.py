"""Models of the hub, from a server that speaks its endpoints: revisions, tokens, the cache, refusals."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from beit_core import load_card
from pipeline.hub import HubModel, commit_of
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env, run_job
from tests.hub import TOKEN, Hub, Repo, hub_server
from tests.outputs import newest_report

READ = (
    "import sys; from pipeline import model_files; from pipeline.errors import ConfigError\n"
    "try: card = model_files.read(sys.argv[1])\n"
    "except ConfigError as error: sys.exit(str(error))\n"
    "print(card.name, card.fingerprint, model_files.name_for_workers(sys.argv[1], card.path))"
)
DIGITS_ID = "acme/digits"
CHANGED = json.dumps(json.loads((DIGITS / "model/config.json").read_text()) | {"layer_norm_eps": 1e-5}).encode()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with hub_server() as server:
        server.repos[DIGITS_ID] = Repo()
        server.repos[DIGITS_ID].push(DIGITS / "model", "main", "v1")
        yield server


DECODE = (
    "import sys; from pipeline.tokenizer import decoder; from pipeline.errors import ConfigError\n"
    "try: decoder(sys.argv[1])\n"
    "except ConfigError as error: sys.exit(str(error))"
)


def start(model: str, env: dict[str, str], code: str = READ) -> subprocess.Popen[str]:
    """A process that reads this model's card; the hub's variables are read when its library is imported."""
    command = [sys.executable, "-c", code, model]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, env=clean_env(env), text=True, **pipes)  # type: ignore[call-overload, no-any-return]


def read(model: str, env: dict[str, str]) -> list[str]:
    """Name, fingerprint and name for workers."""
    process = start(model, env)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    return out.split()


def refused(model: str, env: dict[str, str]) -> str:
    """What is said of a model that cannot be had, without its name."""
    process = start(model, env)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, ""), said
    lines = [line for line in said.splitlines() if line.startswith("--model")]
    assert lines == said.splitlines()[-1:], said
    return lines[0].removeprefix(f"--model {model}: ")


@pytest.mark.parametrize(
    ("name", "repo", "revision"),
    [
        ("a/b", "a/b", None),
        ("a/b@v1.0", "a/b", "v1.0"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ("a-b/c_d.e@" + "0" * 40, "a-b/c_d.e", "0" * 40),
    ],
)
def test_ids(name: str, repo: str, revision: str | None) -> None:
    assert HubModel.named(name) == HubModel(repo, revision)
    assert str(HubModel.named(name)) == name


@pytest.mark.parametrize("name", ["a", "a/b/c", "a/b@", "/a/b", "s3://a/b", "a b/c", "a/b@v 1", "a/b@../c"])
def test_what_is_no_id(name: str) -> None:
    assert HubModel.named(name) is None


def test_a_model_is_called_by_its_id_and_pinned_to_its_commit(hub: Hub, tmp_path: Path) -> None:
    commit, content = hub.repos[DIGITS_ID].refs["main"], load_card(DIGITS / "model").fingerprint
    env = hub.env(tmp_path / "hf")
    assert read(DIGITS_ID, env) == [DIGITS_ID, content, f"{DIGITS_ID}@{commit}"]
    (cached,) = (tmp_path / "hf/hub/models--acme--digits/snapshots").iterdir()
    assert load_card(cached).name == DIGITS_ID
    assert commit_of(cached) == commit
    assert commit_of(DIGITS / "model") is None
    hub.asked.clear()
    assert read(f"{DIGITS_ID}@{commit}", env)[1] == content
    assert not hub.asked  # workers that have the commit ask for nothing


def test_revisions(hub: Hub, tmp_path: Path) -> None:
    repo, env = hub.repos[DIGITS_ID], hub.env(tmp_path / "hf")
    old = repo.refs["v1"]
    new = repo.push(DIGITS / "model", "main", "refs/pr/1", **{"config.json": CHANGED})
    assert read(DIGITS_ID, env)[2] == f"{DIGITS_ID}@{new}"
    assert read(f"{DIGITS_ID}@refs/pr/1", env)[2] == f"{DIGITS_ID}@{new}"
    assert read(f"{DIGITS_ID}@v1", env)[1:] == [load_card(DIGITS / "model").fingerprint, f"{DIGITS_ID}@{old}"]
    assert read(f"{DIGITS_ID}@{old}", env)[2] == f"{DIGITS_ID}@{old}"
    assert set(hub.downloads().values()) == {1}  # the same weights


def test_two_processes_of_a_node_download_once(hub: Hub, tmp_path: Path) -> None:
    others = {"pytorch_model.bin": b"the same in other formats", "flax_model.msgpack": b"which nobody needs"}
    hub.repos[DIGITS_ID].push(DIGITS / "model", "main", **others)
    both = [start(DIGITS_ID, hub.env(tmp_path / "hf")) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split()[0] for process in both] == [DIGITS_ID] * 2
    assert list(hub.downloads().values()) == [1]
    assert read(DIGITS_ID, hub.env(tmp_path / "hf", HF_HUB_OFFLINE="1"))[0] == DIGITS_ID


def test_the_cache_serves_where_the_hub_does_not(hub: Hub, tmp_path: Path) -> None:
    env, commit = hub.env(tmp_path / "hf"), hub.repos[DIGITS_ID].refs["main"]
    offline = env | {"HF_HUB_OFFLINE": "1"}
    said = refused(DIGITS_ID, offline)
    assert said == f"HF_HUB_OFFLINE is set, and the hub's cache ({tmp_path}/hf/hub) does not have it"
    assert not hub.asked
    read(DIGITS_ID, env)
    hub.asked.clear()
    assert read(DIGITS_ID, offline)[2] == f"{DIGITS_ID}@{commit}"
    assert not hub.asked
    hub.status = 503
    process = start(DIGITS_ID, env)
    out, said = process.communicate(timeout=60)
    assert out.split()[2] == f"{DIGITS_ID}@{commit}"
    assert "does not answer (HTTP 503)" in said
    assert f"taken as it is in the hub's cache, {commit}" in said


def test_what_is_not_there(hub: Hub, tmp_path: Path) -> None:
    env = hub.env(tmp_path / "hf")
    none = f"no such folder here, and no such model on {hub.address}, unless "
    assert refused("acme/none", env) == none + "it is private and needs HF_TOKEN"
    assert refused("acme/none", env | {"HF_TOKEN": TOKEN}) == none + "this token may not read it"
    assert refused("acme/no..ne", env) == "no such folder here, and no id that the hub could have"
    read(DIGITS_ID, env)
    for revision in ("v9", "0" * 40):  # though another revision is in the cache
        said = refused(f"{DIGITS_ID}@{revision}", env)
        assert said == f"{DIGITS_ID} has no branch, tag or commit {revision} on {hub.address}"


def test_gated_models(hub: Hub, tmp_path: Path) -> None:
    env, page = hub.env(tmp_path / "hf"), f"{hub.address}/{DIGITS_ID}"
    hub.repos[DIGITS_ID].gated = True
    hub.accounts["hf_new"] = False
    assert refused(DIGITS_ID, env) == f"it is for those who accept its terms: do so on {page}, and set HF_TOKEN"
    said = refused(DIGITS_ID, env | {"HF_TOKEN": "hf_new"})
    assert said == f"the account of this token may not read it yet: ask for access on {page}"
    said = refused(DIGITS_ID, env | {"HF_TOKEN": "hf_wrong"})
    assert said == f"{hub.address} does not know the token (HF_TOKEN, or that of `hf auth login`): make a new one"
    assert read(DIGITS_ID, env | {"HF_TOKEN": TOKEN})[0] == DIGITS_ID


def test_a_hub_that_is_out_of_reach(hub: Hub, tmp_path: Path) -> None:
    env, start_of_it = hub.env(tmp_path / "hf"), "no such folder here, and the hub at {} does not answer ({})"
    advice = "; download it elsewhere and give its folder, or name a mirror in HF_ENDPOINT"
    commit = hub.repos[DIGITS_ID].refs["main"]
    nobody = "http://127.0.0.1:1"
    for model in (DIGITS_ID, f"{DIGITS_ID}@{commit}"):
        said = refused(model, env | {"HF_ENDPOINT": nobody})
        assert said == start_of_it.format(nobody, "ConnectError") + advice
    hub.silent = True
    assert refused(DIGITS_ID, env) == start_of_it.format(hub.address, "ReadTimeout") + advice
    assert sum(hub.asked.values()) == 1


def test_tokenizers_of_the_hub(hub: Hub, tmp_path: Path) -> None:
    env = hub.env(tmp_path / "hf")
    both = [start(f"{DIGITS_ID}@{revision}", env, DECODE) for revision in ("v1", "v9")]
    known, unknown = (process.communicate(timeout=120)[1] for process in both)
    assert known == f"--tokenizer {DIGITS_ID}@v1 is no dVAE but a classifier\n"
    assert unknown == f"--tokenizer {DIGITS_ID}@v9: {DIGITS_ID} has no branch, tag or commit v9 on {hub.address}\n"


def test_jobs_take_an_id(hub: Hub, tmp_path: Path) -> None:
    env = hub.env(tmp_path / "hf")
    flags = ["--input", DIGITS / "shards", "--output", tmp_path / "out", "--local", "--limit", 20]
    run_job("label.py", *flags, "--model", f"{DIGITS_ID}@v1", env=env, code=0)
    bound = json.loads((tmp_path / "out/_run.json").read_text())
    assert bound["model"]["name"] == DIGITS_ID
    report = json.loads(newest_report(tmp_path / "out").read_text())
    found = (report["model"], report["model_fingerprint"], report["model_revision"])
    assert found == (DIGITS_ID, bound["model"]["fingerprint"], hub.repos[DIGITS_ID].refs["v1"])
    done = run_job("convert.py", f"{DIGITS_ID}@v1", tmp_path / "folder", env=env, code=0)
    assert f"{tmp_path}/folder: {DIGITS_ID}, a classifier" in done.stdout
    hub.repos[DIGITS_ID].push(DIGITS / "model", "main", **{"config.json": CHANGED})
    said = run_job("label.py", *flags, "--model", DIGITS_ID, env=env, code=2).stderr
    assert re.search(
        rf"belongs to another model \(acme-digits-.*--output {tmp_path}/out-by-model/model=acme-digits-", said
    )
    done = run_job("convert.py", f"{DIGITS_ID}@v9", tmp_path / "other", env=env, code=2)
    assert f"SOURCE {DIGITS_ID}@v9: {DIGITS_ID} has no branch, tag or commit v9" in done.stderr
