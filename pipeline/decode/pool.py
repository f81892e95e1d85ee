"""Decoding on many cores: children that are supervised, because a native decoder can take its process down.

A child that dies, or is silent for PATIENCE_S, makes the image it was working on suspect: it is
tried again alone in a fresh child, and only if it kills two of those is it `quarantined`. Images that merely waited in
the same child are decoded by another and never suspected. Nor is any where a child dies while it imports torch: others
import it before they take an image. When the whole worker is killed, nothing is recorded and no image is
quarantined. A child that dies before it is ready has seen no image: the fault is the machine's, and repeated
deaths of this kind end the pool.

Images travel in packets: the threads of one process share one lock (the GIL), and a message for each image would hold
it for longer than a fast machine needs to decode the image.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.decode import process
from pipeline.decode.child import ROOM
from pipeline.decode.decode import Decoded, DecodeSettings
from pipeline.decode.process import IN_FLIGHT, Child, ChildDied, Undecoded
from pipeline.decode.ring import Ring, RingSlot
from pipeline.errors import PipelineError
from pipeline.status import OK

FRESH_TRIES = 2  # deaths of a fresh child, alone with the image, that quarantine it
HELD_BYTES = 4 << 20  # of images per child that the pool holds before `submit` blocks, until half of them are left
PACKET_IMAGES, PACKET_BYTES = 32, ROOM  # at most, unless one image is larger
PACKETS = 4  # per child, at least, where the slots of a ring allow it: so large may a packet be
STARTS = 6  # attempts to start a child, each after twice the wait before
FIRST_WAIT_S = 0.2

Answers = list[tuple[int, Decoded]]  # by the images' numbers


class PoolClosed(Exception):
    """The pool takes no image any more."""


class Packet(NamedTuple):
    """Images that one child decodes, one after the other, and the callback for their answers."""

    images: list[Undecoded]
    done: Callable[[Answers], None]


def _bytes(packet: Packet) -> int:
    return sum(len(image.data) for image in packet.images)


class DecodePool:
    """`children` processes that decode, each kept by a thread; any number of threads may submit.

    Images with a slot have their views of fixed size written to `ring`, which has to be made for these views. `failed`
    is called once, from one of the pool's threads, when the pool can do no more: no child can be started (a
    PipelineError says why), or a `done` raised. Images that are held then are not answered.
    """

    def __init__(
        self,
        settings: DecodeSettings,
        children: int,
        ring: Ring | None = None,
        failed: Callable[[Exception], None] | None = None,
    ) -> None:
        """Start the children, all at once and without waiting. Raises ValueError for a ring of other views."""
        sizes = tuple(spec.size for spec in settings.specs if spec.size is not None)
        if children < 1:
            raise ValueError(f"a pool needs at least one child, not {children}")
        if ring is not None and ring.layout.views != sizes:
            raise ValueError(f"the ring holds views of {ring.layout.views}, the settings make {sizes}")
        self.settings, self.ring, self._failed = settings, ring, failed
        slots = PACKET_IMAGES if ring is None else ring.layout.batch * ring.layout.buffers // (PACKETS * children)
        self.packet_images = max(1, min(PACKET_IMAGES, slots))  # of a packet, at most
        self._packets: queue.SimpleQueue[Packet | None] = queue.SimpleQueue()
        self._most = HELD_BYTES * children
        self._held = 0
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._error: Exception | None = None
        self._keepers = [_Keeper(self) for _ in range(children)]
        for keeper in self._keepers:
            keeper.start()

    def __enter__(self) -> DecodePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the children that are there now."""
        return [child.process.pid for keeper in self._keepers if (child := keeper.child) is not None]

    def submit(self, data: bytes, slot: RingSlot | None, done: Callable[[Decoded], None]) -> None:
        """Have an image decoded, in a packet of its own; see `submit_packet`."""
        self.submit_packet(Packet([Undecoded(data, slot)], lambda answers: done(answers[0][1])))

    def submit_packet(self, packet: Packet) -> None:
        """Have images decoded by one child, one after the other; blocks while the children have enough to do.

        Its `done` is called with the answers, from a thread of the pool: with all at once, or with some at a time if
        the child dies, each image once in any order. It must be quick and not raise. With a slot, pixels of fixed
        size are there by then, black if the status is not `ok`, and `views` has only what varies in size; without one,
        `views` has all. Raises PoolClosed, or what ended the pool, also while it blocks.
        """
        self._check([image.slot for image in packet.images])
        with self._lock:
            while self._held >= self._most and not self._ended():
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if self._closed.is_set():
                raise PoolClosed
            self._held += _bytes(packet)
        self._packets.put(packet)

    def close(self) -> None:
        """End all children; images without an answer never get one. Not from within a `done`."""
        with self._lock:
            self._closed.set()
            self._changed.notify_all()
        self._packets.put(None)
        for keeper in self._keepers:
            keeper.interrupt()
        for keeper in self._keepers:
            keeper.join()
        self._keepers.clear()  # they refer to the pool: a reference cycle would keep the ring's memory for long

    def _check(self, slots: Sequence[RingSlot | None]) -> None:
        layout = None if self.ring is None else self.ring.layout
        for at in filter(None, slots):
            if layout is None or not (0 <= at.buffer < layout.buffers and 0 <= at.slot < layout.batch):
                raise ValueError(f"slot {at.slot} of buffer {at.buffer} is not in the ring of this pool ({layout})")

    def _ended(self) -> bool:
        return self._closed.is_set() or self._error is not None

    def next_packet(self, *, wait: bool) -> Packet | None:
        """For keepers: images to send to a child; None if there are none, or if none will come."""
        try:
            packet = self._packets.get(block=wait)
        except queue.Empty:
            return None
        if packet is None:
            self._packets.put(None)  # the other keepers must see it too
        return packet

    def again(self, packet: Packet) -> None:
        """For keepers: images that another child is to decode."""
        self._packets.put(packet)

    def answer(self, packet: Packet, answers: Sequence[Decoded]) -> None:
        """For keepers: the end of a packet's images."""
        for image, answer in zip(packet.images, answers, strict=True):
            if answer.status != OK and image.slot is not None and self.ring is not None:
                self.ring.blacken(image.slot)
        packet.done([(image.number, answer) for image, answer in zip(packet.images, answers, strict=True)])
        with self._lock:
            before, half = self._held, self._most // 2
            self._held -= _bytes(packet)
            if self._held <= half < before:  # a wake-up per packet would cost more than its hand-over
                self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """For keepers: the pool cannot go on."""
        with self._lock:
            if self._ended():
                return
            self._error = error
            self._changed.notify_all()
        self._packets.put(None)
        if self._failed is not None:
            self._failed(error)


class _Keeper(threading.Thread):
    """Keeps one child busy, replaces it when it dies, and finds out whether an image causes that."""

    def __init__(self, pool: DecodePool) -> None:
        super().__init__(name="decode", daemon=True)  # a process that ends without close() must not wait for us
        self.pool = pool
        self.child: Child | None = None
        self._sent: deque[Packet] = deque()
        self._loads_first = False  # a child has died of what it imports
        self._interrupted = threading.Event()
        self._lock = threading.Lock()  # between our starting a child and another thread's ending it

    def run(self) -> None:
        """Until the pool is closed or fails."""
        try:
            child = self._fresh_child()
            while True:
                self._fill(child)
                if not self._sent:
                    return
                child = self._answer(child)
        except PoolClosed:
            return
        except Exception as error:
            self.pool.fail(error)
        finally:
            if self.child is not None:
                self.child.end()
            self.child = None

    def interrupt(self) -> None:
        """Kill the child, and have no other started; from another thread, so that the pipes stay ours to close."""
        with self._lock:
            self._interrupted.set()
            if self.child is not None:
                self.child.process.kill()

    def _fill(self, child: Child) -> None:
        """Have the child hold as many packets as it may; waits for one only while it has none."""
        while len(self._sent) < IN_FLIGHT and (packet := self.pool.next_packet(wait=not self._sent)):
            self._sent.append(packet)
            child.send(packet.images)

    def _answer(self, child: Child) -> Child:
        """Finish the oldest packet; the child that is there afterwards."""
        try:
            answers = child.receive()
        except (ChildDied, TimeoutError):
            return self._replaced_while_loading(child) or self._clear_up(child)
        self.pool.answer(self._sent.popleft(), answers)
        return child

    def _replaced_while_loading(self, child: Child) -> Child | None:
        """Begin another child where this one died while it imported torch, which is no image's fault; else None."""
        if not child.is_loading:
            return None
        self._loads_first = True
        while self._sent:
            self.pool.again(self._sent.popleft())
        return self._fresh_child()

    def _clear_up(self, child: Child) -> Child:
        """Answer the image that the child died on; any child may have the others. Returns the child afterwards."""
        packet = self._sent.popleft()
        suspect = packet.images.pop(min(child.begun, len(packet.images) - 1))
        if packet.images:
            self.pool.again(packet)
        while self._sent:
            self.pool.again(self._sent.popleft())
        answer, child = self._alone(suspect, self._fresh_child())
        self.pool.answer(Packet([suspect], packet.done), [answer])
        return child

    def _alone(self, image: Undecoded, child: Child) -> tuple[Decoded, Child]:
        """The answer to an image that was there when a child died, and the child after it."""
        hung, deaths = False, 0
        while deaths < FRESH_TRIES:
            child.send([image])
            try:
                return child.receive()[0], child
            except (ChildDied, TimeoutError) as error:
                if (after := self._replaced_while_loading(child)) is not None:
                    child = after
                    continue
                hung, deaths = isinstance(error, TimeoutError), deaths + 1
                child = self._fresh_child()
        deed = f"takes more than {process.PATIENCE_S:.0f} s" if hung else "kills the process that decodes it"
        return Decoded("quarantined", f"decoding this image {deed}", None, None), child

    def _fresh_child(self) -> Child:
        """A child that is ready, in the place of the one before. Raises PipelineError when none can be had."""
        reason = ""
        for attempt in range(STARTS):
            if attempt:
                self._interrupted.wait(FIRST_WAIT_S * 2 ** (attempt - 1))
            try:
                child = self._start()
                child.wait_until_ready()
                return child
            except ChildDied:
                reason = "it ended at once"
            except (OSError, TimeoutError) as error:
                reason = str(error) or f"it was not ready after {process.PATIENCE_S:.0f} s"
        raise PipelineError(f"no process that decodes images can be started ({reason}, {STARTS} times)")

    def _start(self) -> Child:
        with self._lock:
            if self.child is not None:
                self.child.end()
                self.child = None
            if self._interrupted.is_set():
                raise PoolClosed
            self.child = Child(self.pool.settings, self.pool.ring, loads_first=self._loads_first)
            return self.child
