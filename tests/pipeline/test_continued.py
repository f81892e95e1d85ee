"""What cannot continue an output is said before anything is written, and what continues it differently is said too."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from pipeline.engine.device import cpu_class
from pipeline.errors import ConfigError
from tests.flow import png, run_here
from tests.helpers import rows, tree_bytes

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output whose source has grown since."""
    (tmp_path / "in").mkdir()
    for number in range(4):
        (tmp_path / f"in/{number}.png").write_bytes(png(number))
    assert run_here(tmp_path / "in", tmp_path / "out", "brightness", limit=2) == 0
    return tmp_path / "out"


def edit_bound(output: Path, **changes: object) -> None:
    file = output / "_run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def refused(said: str, output: Path, **flags: object) -> None:
    before = tree_bytes(output)
    with pytest.raises(ConfigError, match=said):
        run_here(output.parent / "in", output, "brightness", **flags)
    assert tree_bytes(output) == before


@no_gpu
@pytest.mark.parametrize("dry_run", [False, True])
def test_a_gpu_that_is_not_there(output: Path, dry_run: bool) -> None:
    refused("--device gpu: this machine has no GPU", output, device="gpu", dry_run=dry_run)


def test_arithmetic_that_this_cpu_only_emulates(output: Path) -> None:
    edit_bound(output, dtype="float16")
    refused("--dtype float16: CPUs only emulate it", output, dtype="auto", device="cpu")


def test_a_compiler_that_is_not_there(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(output / "bin"))
    assert shutil.which("g++") is None
    edit_bound(output, compile=True)
    refused(r"--compile: there is no C\+\+ compiler", output, device="cpu")
    refused(r"--compile: there is no C\+\+ compiler", output.parent / "new", compile=True, device="cpu")


def test_what_has_nothing_to_do_needs_no_device(output: Path) -> None:
    edit_bound(output, dtype="float16")
    assert run_here(output.parent / "in", output, "brightness", dtype="auto", limit=2) == 0


@pytest.mark.parametrize(("before", "said"), [("amx_bf32", "a CPU with amx_bf32"), ("", "an accelerator")])
def test_another_kind_of_device_is_told(
    before: str, said: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert json.loads((output / "_run.json").read_text())["cpu_class"] == cpu_class()
    edit_bound(output, cpu_class=before)
    capsys.readouterr()
    assert run_here(output.parent / "in", output, "brightness", device="cpu") == 0
    assert f"begun on {said}, here is a CPU with {cpu_class()}; last bits may differ" in capsys.readouterr().err
    assert len(rows(output)) == 4


def test_an_output_of_a_version_that_did_not_note_the_cpu(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = output / "_run.json"
    bound = json.loads(file.read_text())
    del bound["cpu_class"]
    file.write_text(json.dumps(bound))
    assert run_here(output.parent / "in", output, "brightness") == 0
    assert "last bits" not in capsys.readouterr().err
