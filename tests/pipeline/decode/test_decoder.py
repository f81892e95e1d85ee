"""One image at a time: deadly ones cost a row, and a death in between costs nothing."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from beit_core import PixelSpec
from pipeline.decode import pool, process
from pipeline.decode.decode import DecodeSettings
from pipeline.errors import PipelineError
from tests.flow import make_tar, png, run_here
from tests.helpers import rows
from tests.pipeline.decode.answers import EAT, HANG, KILL
from tests.pipeline.decode.decoder import Decoder


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeSettings((PixelSpec(resize=(8, 8)),))) as made:
        yield made


@pytest.mark.torture
@pytest.mark.usefixtures("poison")
def test_deadly_images_are_quarantined_and_their_neighbours_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 4.0)
    bad = {1: KILL, 4: EAT, 6: HANG}
    make_tar(tmp_path / "in/s.tar", [(f"{n}.png", bad.get(n, png(n))) for n in range(9)])
    assert run_here(tmp_path / "in", tmp_path / "out", max_failed=0.5) == 0
    table = rows(tmp_path / "out")
    wrong = {n for n, status in enumerate(table["status"].to_pylist()) if status == "quarantined"}
    assert wrong == set(bad)
    assert table["status"].to_pylist().count("ok") == 6
    errors = table["error"].to_pylist()
    assert errors[1] == errors[4] == "decoding this image kills the process that decodes it"
    assert errors[6] == "decoding this image takes more than 4 s"


def test_a_child_killed_between_images_costs_nothing(decoder: Decoder) -> None:
    for value in range(3):
        assert decoder(png(value)).status == "ok"
        assert decoder.pool is not None
        os.kill(decoder.pool.pids[0], signal.SIGKILL)
    assert decoder(png(9)).status == "ok"


def test_that_no_child_can_be_started_is_no_images_fault(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr(pool, "FIRST_WAIT_S", 0)
    for _ in range(2):
        with pytest.raises(PipelineError, match="no process that decodes images can be started"):
            decoder(png(1))
