"""Images that kill, eat or hang: one row says so, its neighbours never notice, and nobody else is suspected."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from beit_core import PixelSpec
from pipeline.decode import child
from pipeline.decode.child import Decoder, DecodeSettings
from tests.flow import make_tar, png, run_here
from tests.helpers import ROOT, rows

HOOKS = str(ROOT / "tests/hooks")
KILL, EAT, HANG = b"KILL-ME!", b"EAT-MEM!", b"HANG-ON!"


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", HOOKS)
    monkeypatch.setenv("POISON", "1")


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    with Decoder(DecodeSettings((PixelSpec(resize=(8, 8)),))) as made:
        yield made


@pytest.mark.usefixtures("poison")
def test_deadly_images_are_quarantined_and_their_neighbours_are_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "PATIENCE_S", 4.0)
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


@pytest.mark.usefixtures("poison")
def test_a_child_that_dies_twice_by_others_hands_is_no_proof(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed from outside while it holds an image, once and again: the third try answers."""
    start, deaths = decoder._start, []

    def start_and_kill() -> object:
        process = start()
        if len(deaths) < child.FRESH_TRIES:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            deaths.append(process.pid)
        return process

    monkeypatch.setattr(decoder, "_start", start_and_kill)
    assert decoder(png(5)).status == "ok"
    assert len(deaths) == 2
    assert decoder(KILL).status == "quarantined"
    assert decoder(png(5)).status == "ok"


def test_a_child_killed_between_images_costs_nothing(decoder: Decoder) -> None:
    for value in range(3):
        assert decoder(png(value)).status == "ok"
        assert decoder.child is not None
        os.kill(decoder.child.pid, signal.SIGKILL)
        decoder.child.wait()
    assert decoder(png(9)).status == "ok"


@pytest.mark.usefixtures("poison")
def test_a_hanging_child_ends_itself_when_nobody_is_left_to_end_it(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "PATIENCE_S", 1.0)
    with pytest.raises(TimeoutError):
        decoder._ask(HANG)
    assert decoder.child is not None
    assert decoder.child.wait(60) == -signal.SIGALRM
