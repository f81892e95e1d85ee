"""Models in object storage: fetched once per node however many processes start, and called after their folder."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beit_core import load_card
from pipeline import model_files
from pipeline.storage import ranged
from tests.faults import FaultProxy
from tests.flow import DIGITS, run_here
from tests.helpers import ROOT, clean_env
from tests.pipeline.test_refusals import refused
from tests.rules import Rule
from tests.weed import Weed

READ = "import sys; from pipeline import model_files; print(model_files.read(sys.argv[1]).name)"


def test_two_processes_of_a_node_fetch_a_model_once(weed: Weed, fault_proxy: FaultProxy, tmp_path: Path) -> None:
    weed.put_tree(DIGITS / "model", "inb/models/once")
    # The first is in the middle of the weights when the second one comes.
    fault_proxy.fail(Rule("latency", "safetensors", "GET", secs=2))
    env = clean_env(fault_proxy.env(weed.env) | {"XDG_CACHE_HOME": str(tmp_path)})
    command = [sys.executable, "-c", READ, "s3://inb/models/once/"]
    both = [subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].strip() for process in both] == ["once"] * 2
    asked = {name: count for name, count in fault_proxy.requests().items() if name.startswith("GET inb/models/once/")}
    assert len(asked) == 3
    assert set(asked.values()) == {1}


@pytest.mark.usefixtures("s3_env")
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_model_is_called_after_its_folder(
    weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slash: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    weed.put_tree(DIGITS / "model", "inb/models/mine")
    card = model_files.read(f"s3://inb/models/mine{slash}")
    assert card.name == "mine"
    assert card.fingerprint == load_card(DIGITS / "model").fingerprint
    assert model_files.name_for_workers("s3://inb/models/mine", card.path) == "s3://inb/models/mine"


def test_weights_come_in_ranges(
    weed: Weed, proxied: FaultProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one request gigabytes would outlast what a request is waited for; what breaks off is not begun anew."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ranged, "BLOCK", 256 << 10)
    weed.put_tree(DIGITS / "model", "inb/models/ranges")
    weights = (DIGITS / "model/model.safetensors").read_bytes()
    proxied.fail(Rule("trunc", "safetensors", "GET", after=1, times=1))
    path = model_files.fetch("s3://inb/models/ranges/")
    assert (path / "model.safetensors").read_bytes() == weights
    blocks = -(-len(weights) // ranged.BLOCK)
    assert proxied.requests()["GET inb/models/ranges/model.safetensors"] == blocks + 1 > 3


def test_batches_of_images_that_keep_their_ratio(tmp_path: Path) -> None:
    scenes = DIGITS.parent / "digits-seg"
    model = shutil.copytree(scenes / "model", tmp_path / "model")
    path = model / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "size": {"shortest_edge": 64}}))
    flags = {"task": "segment", "model": model, "semantics": "original", "inference": "whole", "limit": 1}
    refused(
        "--batch-size 2: --model .* keeps the aspect ratio", scenes / "shards", tmp_path / "out", batch_size=2, **flags
    )
    assert run_here(scenes / "shards", tmp_path / "out", batch_size=1, **flags) == 0


def test_a_cache_of_models_that_cannot_be_written(weed: Weed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weed.put_tree(DIGITS / "model", "inb/cached-model")
    (tmp_path / "file").touch()
    for name, value in weed.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    said = "--model s3://inb/cached-model/: cannot be fetched to this machine .Not a directory"
    refused(said, DIGITS / "shards", tmp_path / "out", model="s3://inb/cached-model/")
