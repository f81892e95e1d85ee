"""A child imports torch when it first needs it: if that ends the process, no image is at fault."""

from pathlib import Path

import pytest

from beit_core import PixelSpec
from pipeline.decode import pool as pools
from pipeline.decode.decode import DecodeSettings
from pipeline.decode.pool import DecodePool
from pipeline.errors import PipelineError
from tests.pipeline.decode.answers import Answers, coloured, wait_for

SETTINGS = DecodeSettings((PixelSpec(resize=(8, 8)),))
DEATH = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"  # as the kernel does when memory ends
EXIT = "raise SystemExit(3)"
ONE_DEATH = f"""
import sys
from pathlib import Path
try:
    Path(__file__).with_name("died").touch(exist_ok=False)
    {DEATH.replace(chr(10), "; ")}
except FileExistsError:
    sys.path.remove(str(Path(__file__).parent))
    del sys.modules["torch"]
    import torch
"""


@pytest.fixture
def instead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that children import in the place of torch."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(pools, "FIRST_WAIT_S", 0)
    return tmp_path / "torch.py"


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("deed", [DEATH, EXIT])
def test_where_torch_cannot_be_imported_no_image_is_quarantined(instead: Path, deed: str, answers: Answers) -> None:
    instead.write_text(deed)
    told: list[Exception] = []
    with DecodePool(SETTINGS, 1, failed=told.append) as pool:
        for number in range(3):
            pool.submit(coloured(number, 100), None, answers.of(number))
        wait_for(lambda: told)
    assert isinstance(told[0], PipelineError)
    assert "it ended at once, 6 times" in str(told[0])
    assert not answers.found


@pytest.mark.usefixtures("nothing_left")
def test_a_child_that_dies_once_while_it_imports_torch_costs_nothing(instead: Path, answers: Answers) -> None:
    instead.write_text(ONE_DEATH)
    with DecodePool(SETTINGS, 1) as pool:
        for number in range(3):
            pool.submit(coloured(number, 100), None, answers.of(number))
        answers.wait(3)
    assert answers.statuses() == dict.fromkeys(range(3), "ok")
    assert (instead.parent / "died").exists()
