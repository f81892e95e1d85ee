"""Models in object storage: fetched once per node however many processes start, and called after their folder."""

import subprocess
import sys
from pathlib import Path

import pytest

from beit_core import load_card
from pipeline import model_files
from tests.faults import FaultProxy
from tests.flow import DIGITS
from tests.helpers import ROOT, clean_env
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
