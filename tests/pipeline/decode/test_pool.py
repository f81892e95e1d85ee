"""Many children: every picture in its slot, whoever finishes first, and nothing left behind."""

import threading
from pathlib import Path

import numpy as np
import pytest

from beit_core import PixelSpec
from pipeline.decode import pool as pools
from pipeline.decode.decode import Decoded, DecodeSettings, decode
from pipeline.decode.pool import DecodePool, PoolClosed
from pipeline.decode.ring import Buffer, Ring, RingSlot
from pipeline.errors import PipelineError
from tests.pipeline.decode.answers import WAIT, Answers, coloured, numbers_of, wait_for

SIZE = (8, 8)
SETTINGS = DecodeSettings((PixelSpec(resize=SIZE),))
HELD = 4  # images of a child, where HELD_BYTES is set to so many
SLOW = 1200  # pixels a side of a picture that takes a hundred times longer than the others


def submit_all(pool: DecodePool, ring: Ring, answers: Answers, files: list[bytes]) -> list[int]:
    """All files by way of batches of the ring, each released when it is complete; the numbers in their slots."""
    found: dict[int, list[int]] = {}
    batch = ring.layout.batch

    def finish(buffer: Buffer, start: int, stop: int) -> None:
        answers.wait(1)
        wait_for(lambda: all(n in answers.found for n in range(start, stop)))
        found[start] = numbers_of(buffer.views[0][: stop - start])
        buffer.release()

    finishers = []
    for start in range(0, len(files), batch):
        stop, buffer = min(start + batch, len(files)), ring.take()
        for number in range(start, stop):
            pool.submit(files[number], buffer.at(number - start), answers.of(number))
        finishers.append(threading.Thread(target=finish, args=(buffer, start, stop)))
        finishers[-1].start()
    for finisher in finishers:
        finisher.join(120)
    return [number for start in sorted(found) for number in found[start]]


@pytest.mark.usefixtures("nothing_left")
def test_two_thousand_images_that_finish_out_of_order_land_in_their_slots(answers: Answers) -> None:
    files = [coloured(n, SLOW if n % 97 == 0 else 8) for n in range(2000)]
    with Ring([SIZE], batch=64, buffers=3) as ring, DecodePool(SETTINGS, 3, ring) as pool:
        assert submit_all(pool, ring, answers, files) == list(range(2000))
    assert answers.order != sorted(answers.order)  # type: ignore[type-var]
    assert sorted(answers.order) == list(range(2000))  # type: ignore[type-var]
    assert {answer.status for answer in answers.found.values()} == {"ok"}
    assert answers.found[97] == Decoded("ok", None, SLOW, SLOW)


def test_a_failed_image_leaves_its_slot_black_and_its_neighbours_alone(answers: Answers) -> None:
    with Ring([SIZE], batch=4, buffers=1) as ring, DecodePool(SETTINGS, 2, ring) as pool:
        buffer = ring.take()
        buffer.views[0][:] = 77
        for slot, data in enumerate([coloured(5), b"no picture", coloured(7)]):
            pool.submit(data, buffer.at(slot), answers.of(slot))
        answers.wait(3)
        assert numbers_of(buffer.views[0]) == [5, -1, 7, 77 + 256 * 77]
        assert answers.statuses() == {0: "ok", 1: "decode_error", 2: "ok"}
        assert answers.found[1].error == decode(b"no picture", SETTINGS.specs).error


def test_without_a_slot_and_where_sizes_vary_pixels_come_with_the_answer(answers: Answers) -> None:
    specs = (PixelSpec(resize=6), PixelSpec(resize=SIZE), PixelSpec(resize=None))
    files = [coloured(n, 9 + n) for n in range(20)]
    with Ring([SIZE], batch=20, buffers=1) as ring, DecodePool(DecodeSettings(specs), 2, ring) as pool:
        buffer = ring.take()
        for number, data in enumerate(files):
            pool.submit(data, None, answers.of(("all", number)))
            pool.submit(data, buffer.at(number), answers.of(("rest", number)))
        answers.wait(40)
        assert numbers_of(buffer.views[0]) == list(range(20))
    for number, data in enumerate(files):
        wanted = decode(data, specs).views
        assert same(answers.found["all", number].views, wanted)
        assert same(answers.found["rest", number].views, (wanted[0], wanted[2]))


def same(found: tuple[np.ndarray, ...], wanted: tuple[np.ndarray, ...]) -> bool:
    return len(found) == len(wanted) and all(map(np.array_equal, found, wanted))


@pytest.fixture
def few_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "HELD_BYTES", HELD * len(WAIT))


@pytest.mark.usefixtures("few_held")
def test_submit_blocks_while_the_children_have_enough_to_do(gate: Path, answers: Answers) -> None:
    submitted, most = 0, 0

    def feed() -> None:
        nonlocal submitted
        for number in range(5 * HELD):
            pool.submit(WAIT, None, lambda answer, number=number: finished(number, answer))
            submitted += 1

    def finished(number: int, answer: Decoded) -> None:
        nonlocal most
        most = max(most, submitted - len(answers.order))
        answers.of(number)(answer)

    with DecodePool(SETTINGS, 1) as pool:
        feeder = threading.Thread(target=feed)
        feeder.start()
        wait_for(lambda: submitted == HELD)
        (gate / "open").touch()
        answers.wait(5 * HELD)
        feeder.join(30)
    assert most <= HELD


@pytest.mark.usefixtures("nothing_left", "few_held")
def test_closing_while_all_are_busy_ends_everything(gate: Path, answers: Answers) -> None:
    refused: list[BaseException] = []

    def feed() -> None:
        try:
            while True:
                pool.submit(WAIT, None, answers.of(len(answers.order)))
        except PoolClosed as error:
            refused.append(error)

    pool = DecodePool(SETTINGS, 2)
    feeder = threading.Thread(target=feed)
    feeder.start()
    wait_for(lambda: len(list(gate.glob("[0-9]*"))) == 2)
    pool.close()
    feeder.join(30)
    assert len(refused) == 1
    assert not answers.order
    assert pool.pids == []
    with pytest.raises(PoolClosed):
        pool.submit(WAIT, None, answers.of("late"))
    pool.close()


@pytest.mark.usefixtures("nothing_left")
def test_closing_before_the_children_are_ready_ends_them() -> None:
    DecodePool(SETTINGS, 2).close()


@pytest.mark.usefixtures("nothing_left")
def test_that_no_child_can_be_started_is_said_once_and_to_all_who_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr(pools, "FIRST_WAIT_S", 0)
    told: list[Exception] = []
    with DecodePool(SETTINGS, 2, failed=told.append) as pool:
        wait_for(lambda: told)
        with pytest.raises(PipelineError, match="it ended at once, 6 times"):
            pool.submit(coloured(1), None, print)
    assert len(told) == 1


def test_an_error_in_what_is_done_with_an_answer_is_not_lost() -> None:
    told: list[Exception] = []

    def fail(_: Decoded) -> None:
        raise RuntimeError("the file cannot be written")

    with DecodePool(SETTINGS, 1, failed=told.append) as pool:
        pool.submit(coloured(1), None, fail)
        wait_for(lambda: told)
        with pytest.raises(RuntimeError, match="cannot be written"):
            pool.submit(coloured(1), None, print)


@pytest.mark.parametrize(("children", "batch", "images"), [(2, 64, 32), (4, 8, 3), (2, 1, 1)])
def test_packets_are_so_small_that_each_child_has_one(children: int, batch: int, images: int) -> None:
    with Ring([SIZE], batch, buffers=6) as ring, DecodePool(SETTINGS, children, ring) as pool:
        assert pool.packet_images == images


def test_slots_and_rings_that_do_not_fit_are_refused() -> None:
    with Ring([SIZE], batch=4, buffers=2) as ring, DecodePool(SETTINGS, 1, ring) as pool:
        for at in [(2, 0), (0, 4), (-1, 0), (0, -1)]:
            with pytest.raises(ValueError, match="is not in the ring"):
                pool.submit(coloured(1), RingSlot(*at), print)
        with pytest.raises(ValueError, match="the settings make"):
            DecodePool(DecodeSettings((PixelSpec(resize=(9, 9)),)), 1, ring)
    with DecodePool(SETTINGS, 1) as pool, pytest.raises(ValueError, match="is not in the ring"):
        pool.submit(coloured(1), RingSlot(0, 0), print)
    with pytest.raises(ValueError, match="at least one child"):
        DecodePool(SETTINGS, 0)
