"""Children that die: by an image's hand, which is found out, and by others', which proves nothing of an image."""

import os
import signal
from pathlib import Path

import pytest

from beit_core import PixelSpec
from pipeline.decode import process
from pipeline.decode.decode import DecodeSettings
from pipeline.decode.pool import FRESH_TRIES, DecodePool, Packet
from pipeline.decode.process import Undecoded
from pipeline.decode.ring import Ring
from tests.pipeline.decode.answers import EAT, HANG, KILL, WAIT, Answers, coloured, numbers_of, wait_for

SIZE = (8, 8)
SETTINGS = DecodeSettings((PixelSpec(resize=SIZE),), max_pixels=1 << 20)
KILLS = 12


@pytest.mark.usefixtures("poison", "nothing_left")
def test_deadly_images_are_quarantined_and_who_waited_behind_them_is_not(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "PATIENCE_S", 5.0)
    bad = {1: KILL, 2: KILL, 9: EAT, 14: HANG, 39: KILL}
    with Ring([SIZE], batch=40, buffers=1) as ring, DecodePool(SETTINGS, 2, ring) as pool:
        buffer = ring.take()
        buffer.views[0][:] = 77
        for slot in range(40):
            pool.submit(bad.get(slot, coloured(slot)), buffer.at(slot), answers.of(slot))
        answers.wait(40)
        assert numbers_of(buffer.views[0]) == [-1 if slot in bad else slot for slot in range(40)]
    assert sorted(answers.order) == list(range(40))  # type: ignore[type-var]
    assert {n for n, status in answers.statuses().items() if status == "quarantined"} == set(bad)
    assert set(answers.statuses().values()) == {"ok", "quarantined"}
    errors = {n: answers.found[n].error for n in bad}
    assert errors[1] == errors[2] == errors[9] == errors[39] == "decoding this image kills the process that decodes it"
    assert errors[14] == "decoding this image takes more than 5 s"


@pytest.mark.usefixtures("poison", "nothing_left")
def test_deadly_images_are_found_among_those_that_travel_with_them(answers: Answers) -> None:
    bad = {0, 3, 4, 7, 13}
    with Ring([SIZE], batch=16, buffers=1) as ring, DecodePool(SETTINGS, 2, ring) as pool:
        buffer = ring.take()
        for start in (0, 8):
            slots = range(start, start + 8)
            files = [KILL if slot in bad else coloured(slot) for slot in slots]
            images = [Undecoded(d, buffer.at(s), s) for s, d in zip(slots, files, strict=True)]
            pool.submit_packet(Packet(images, answers.of_packet))
        answers.wait(16)
        assert numbers_of(buffer.views[0]) == [-1 if slot in bad else slot for slot in range(16)]
    assert sorted(answers.order) == list(range(16))  # type: ignore[type-var]
    assert {n for n, status in answers.statuses().items() if status == "quarantined"} == bad
    assert set(answers.statuses().values()) == {"ok", "quarantined"}


@pytest.mark.usefixtures("nothing_left")
def test_an_image_whose_child_is_killed_from_outside_is_tried_again_and_answered(gate: Path, answers: Answers) -> None:
    """As often as it may be without proof, while another image waits in the same child."""
    with DecodePool(SETTINGS, 1) as pool:
        pool.submit(WAIT, None, answers.of("held"))
        pool.submit(coloured(1), None, answers.of("behind"))
        known: set[str] = set()
        for _ in range(FRESH_TRIES):
            wait_for(lambda: {path.name for path in gate.glob("[0-9]*")} - known)
            (holder,) = {path.name for path in gate.glob("[0-9]*")} - known
            known.add(holder)
            os.kill(int(holder), signal.SIGKILL)
        wait_for(lambda: len(list(gate.glob("[0-9]*"))) > len(known))
        (gate / "open").touch()
        answers.wait(2)
    assert answers.statuses() == {"held": "ok", "behind": "ok"}
    assert len(answers.order) == 2


@pytest.mark.usefixtures("nothing_left")
def test_kills_in_the_middle_of_batches_cost_nothing_but_time(answers: Answers) -> None:
    count = 100 * (KILLS + 1)
    with Ring([SIZE], batch=count, buffers=1) as ring, DecodePool(SETTINGS, 2, ring) as pool:
        buffer = ring.take()
        for number in range(count):
            pool.submit(coloured(number), buffer.at(number), answers.of(number))
            if number % 100 == 50 and number // 100 < KILLS:
                # The children are at work, and in the midst of it; whom the last kill hit is answered: two kills of
                # children that try the same image alone would rightly put it in quarantine.
                answers.wait_for(range(number - 40))
                os.kill(pool.pids[number // 100 % len(pool.pids)], signal.SIGKILL)
        answers.wait(count)
        assert numbers_of(buffer.views[0]) == list(range(count))
    assert sorted(answers.order) == list(range(count))  # type: ignore[type-var]
    assert set(answers.statuses().values()) == {"ok"}
