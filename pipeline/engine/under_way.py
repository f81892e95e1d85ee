"""A span and its batches while several steps work on them at once."""

from __future__ import annotations

import queue
import threading
import time
from dataclasses import replace
from typing import Protocol

import numpy as np

from pipeline.decode.decode import Decoded
from pipeline.decode.pool import PACKET_BYTES, Answers, DecodePool, Packet
from pipeline.decode.process import Undecoded
from pipeline.decode.ring import Buffer
from pipeline.engine.gate import Gate
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.predictor import Answered, joined
from pipeline.engine.spans import UNDONE, AnsweredSpan, DecodedSpan, undecodable
from pipeline.errors import PipelineError
from pipeline.output.receipts import DeviceUsed, Reading, Receipt
from pipeline.source.item import Item
from pipeline.spec import JobSpec
from pipeline.status import OK

Receipts = queue.SimpleQueue[Receipt | Exception]


class SpanWorker(Protocol):
    """What a span and its batches need of the worker that has them under way."""

    spec: JobSpec
    pool: DecodePool
    spans: Gate
    batches: Gate

    @property
    def used(self) -> DeviceUsed:
        """What receipts say of the device."""

    def decoded(self, batch: BatchUnderWay) -> None:
        """All images of a batch are decoded."""

    def finish(self, span: SpanUnderWay) -> None:
        """All parts of a span are done."""


class SpanUnderWay:
    """A span under way. Its parts are its batches, and the reading of it."""

    def __init__(self, worker: SpanWorker, source: OpenSpan, receipts: Receipts) -> None:
        self.worker, self.source, self.receipts = worker, source, receipts
        self.facts, self.reading = source.facts, Reading()
        self.items: list[Item] = []
        self.decoded: list[Decoded | None] = []
        self.answered: dict[int, Answered] = {}  # of each batch, by the index of its first image
        self.seconds = {"read": 0.0, "decode": 0.0, "predict": 0.0}
        self._parts = 1
        self._lock = threading.Lock()

    def begin_part(self) -> None:
        """One more part to wait for."""
        with self._lock:
            self._parts += 1

    def part_done(self) -> None:
        """Count a part as done; after the last one the span is finished."""
        with self._lock:
            self._parts -= 1
            over = self._parts == 0
        if over:
            self.worker.finish(self)

    def add_seconds(self, step: str, seconds: float) -> None:
        """Time that a step has spent on this span."""
        with self._lock:
            self.seconds[step] += seconds

    def finish(self) -> None:
        """Write the file, and report."""
        spec, began = self.worker.spec, time.perf_counter()
        images = [(item, _known(item, answer)) for item, answer in zip(self.items, self.decoded, strict=True)]
        span = DecodedSpan.of(spec, (self.facts, self.reading), images, self.source.before, self.seconds)
        answered = joined(self.answered, len(images), spec.bound.batch_size)
        done = AnsweredSpan.of(spec, span, answered, self.seconds["predict"], self.worker.used)
        receipt = done.receipt(done.write(spec), time.perf_counter() - began)
        self.worker.spans.leave()
        self.receipts.put(receipt)


class BatchUnderWay:
    """Consecutive images of a span, image i of them in slot i; ready for the model when all are decoded."""

    def __init__(self, span: SpanUnderWay, buffer: Buffer | None) -> None:
        self.span, self.worker, self.buffer = span, span.worker, buffer
        self.start = len(span.items)
        self.count = 0
        self.wanted = False  # whether any image is to be answered
        self.varying: tuple[np.ndarray, ...] = ()  # views of images that have a size of their own: a batch of one
        self._due = 1  # images not decoded yet, and the sealing
        self._packet: list[Undecoded] = []  # of images that are to be sent together
        self._packet_bytes = 0
        self._lock = threading.Lock()
        span.begin_part()

    @property
    def full(self) -> bool:
        """Whether another image has to go to another batch."""
        return self.count == self.worker.spec.bound.batch_size

    def add(self, item: Item) -> None:
        """Have the next image decoded, with its neighbours; blocks while the children have enough to do."""
        span, slot = self.span, self.count
        self.count += 1
        span.items.append(item)
        span.decoded.append(None)
        data, item.data = item.data, b""
        if item.uri in span.source.undone:
            self._settle(slot, UNDONE)
        elif isinstance(data, bytes):
            if self._packet_bytes + len(data) > PACKET_BYTES or len(self._packet) == self.worker.pool.packet_images:
                self._send_packet()
            at = self.buffer.at(slot) if self.buffer is not None else None
            self._packet.append(Undecoded(data, at, slot))
            self._packet_bytes += len(data)
        else:
            item.data = data
            self._settle(slot, undecodable(item))

    def _send_packet(self) -> None:
        """Blocks while the children have enough to do."""
        packet, self._packet, self._packet_bytes = self._packet, [], 0
        if packet:
            with self._lock:
                self._due += len(packet)
            self.worker.pool.submit_packet(Packet(packet, self._decoded))

    def _settle(self, slot: int, answer: Decoded) -> None:
        """Count an image that needs no decoding; its slot is black."""
        self.span.decoded[self.start + slot] = answer
        if self.buffer is not None:
            self.buffer.blacken(slot)

    def _decoded(self, answers: Answers) -> None:
        """Called by the pool."""
        for slot, answer in answers:
            if answer.status == OK:
                self.wanted = True
                self.varying = answer.views
            # A span of these images would hold all of their pixels until it is written.
            self.span.decoded[self.start + slot] = replace(answer, views=()) if answer.views else answer
        self.span.add_seconds("decode", sum(answer.seconds for _, answer in answers))
        self._less(len(answers))

    def seal(self) -> None:
        """No more images: the remaining slots are black."""
        self._send_packet()
        if self.buffer is not None:
            for slot in range(self.count, self.worker.spec.bound.batch_size):
                self.buffer.blacken(slot)
        self._less(1)

    def _less(self, done: int) -> None:
        with self._lock:
            self._due -= done
            over = self._due == 0
        if over:
            self.worker.decoded(self)

    def content(self) -> tuple[tuple[np.ndarray, ...], list[str], list[tuple[int, int]]]:
        """The batch as `Predictor.prepare` takes it: the very memory that the children wrote to, uris and sizes."""
        padding = self.worker.spec.bound.batch_size - self.count
        stop = self.start + self.count
        uris = [item.uri for item in self.span.items[self.start : stop]] + [""] * padding
        sizes = [_size(answer) for answer in self.span.decoded[self.start : stop]] + [(0, 0)] * padding
        fixed = iter(self.buffer.views if self.buffer is not None else ())
        varying = iter(self.varying)
        views = [
            next(fixed) if view.size is not None else next(varying)[None] for view in self.worker.spec.decode.specs
        ]
        return tuple(views), uris, sizes

    def release(self) -> None:
        """The pixels are not needed any more."""
        if self.buffer is not None:
            self.buffer.release()
        self.worker.batches.leave()


def _known(item: Item, answer: Decoded | None) -> Decoded:
    if answer is None:
        raise PipelineError(f"{item.uri} was not decoded when its span was written")
    return answer


def _size(answer: Decoded | None) -> tuple[int, int]:
    """(height, width) of an image that is to be answered, (0, 0) of another."""
    if answer is None or answer.status != OK:
        return 0, 0
    return answer.height or 0, answer.width or 0
