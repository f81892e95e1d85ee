"""All steps of many spans at once, in one process that owns one device: no step waits for another.

    callers of `work` read -> children decode into the ring -> one thread asks the model -> finishers encode -> writers

A batch is handed to the model once its last image is decoded, whatever span it is of. What is under way is bounded by
the buffers of the ring and by a number of spans, so memory does not grow with what is read. The first error of any
thread ends the worker and is raised in every thread that waits for it.

A predictor computes on one core of a CPU, so that answers are the same for any number of cores. To use more of them a
worker takes several, each with a thread and a model of its own.
"""

from __future__ import annotations

import functools
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from pipeline.decode.pool import DecodePool, PoolClosed
from pipeline.decode.ring import Ring, RingClosed
from pipeline.engine.device import HANG_S, has_hung, lock_pages, unlock_pages
from pipeline.engine.gate import Gate, GateClosed
from pipeline.engine.loading import load_predictor
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.predictor import Asked, Predictor, Step
from pipeline.engine.reader import Reader
from pipeline.engine.under_way import BatchUnderWay, Receipts, SpanUnderWay
from pipeline.errors import DeviceFailed, PipelineError
from pipeline.output.receipts import DeviceUsed, Receipt
from pipeline.plan.rows import Row
from pipeline.spec import JobSpec

# For one predictor; one more of each for every other.
BUFFERS = 6  # batches between reading and the model
SPANS = 20  # spans between the first image read and the file written
AHEAD = 2  # batches that the device has been asked about and has not answered
WATCH_S = 5.0  # between two looks whether the device has hung
FINISHERS = 8  # threads that encode answers; two of them wait for the device
WRITERS = 8  # threads that write files, which a storage may keep waiting; the device is not to wait for them
READERS = 4  # rows to be read concurrently: while some are finished, others fill the batches


class Worker:
    """Finishes the spans of rows. `work` may be called by several threads; more than one keeps the device busy."""

    def __init__(
        self,
        spec: JobSpec,
        children: int,
        load: Callable[[JobSpec], Predictor] = load_predictor,
        hung: Callable[[DeviceFailed], None] | None = None,
        predictors: int = 1,
    ) -> None:
        """Start `children` decoding processes, and load the model while they start. Raises what `load` raises.

        `hung` is called, from a thread of the worker, when the device has not answered a batch for HANG_S. Predictors
        beside the first load their models when there is a batch for them.
        """
        self.spec, self.reader = spec, Reader(spec)
        self.load, more = load, predictors - 1
        sizes = [view.size for view in spec.decode.specs if view.size is not None]
        self.ring = Ring(sizes, spec.bound.batch_size, BUFFERS + more) if sizes else None
        self.batches, self.spans, self.ahead = Gate(BUFFERS + more), Gate(SPANS + more), Gate(AHEAD + more)
        self.readers = READERS + more
        self.ready: queue.SimpleQueue[tuple[BatchUnderWay, Asked] | None] = queue.SimpleQueue()
        self.finishers = ThreadPoolExecutor(FINISHERS + more, "finish")
        self.writers = ThreadPoolExecutor(WRITERS + more, "write")
        self.error: Exception | None = None
        self.is_locked = False
        self.waiting: set[Receipts] = set()
        # Seconds that the device worked, and when it was first asked and last done.
        self.busy_s = self.first_asked = self.last_done = 0.0
        self._lock = threading.Lock()
        self._asked: dict[int, float] = {}  # batches that the device has not answered, by when it was asked
        self._ended = threading.Event()
        self.pool = DecodePool(spec.decode, children, self.ring, self.fail)
        try:
            self.predictors = [load(spec)]
            if self.ring is not None:
                self.is_locked = lock_pages(self.ring.memory, self.predictor.device.type)
        except BaseException as error:
            self.fail(PipelineError(f"the worker could not begin ({error})"))
            self.close()
            raise
        for known in (self.predictor, *[None] * more):
            threading.Thread(target=self._ask_model, args=(known,), name="device", daemon=True).start()
        threading.Thread(target=self._watch, args=(hung or self.fail,), name="watch", daemon=True).start()

    @property
    def predictor(self) -> Predictor:
        """The first one; what all do alike is asked of it."""
        return self.predictors[0]

    @property
    def used(self) -> DeviceUsed:
        """What receipts say of the device, by the predictor that has the least memory."""
        return min(self.predictors, key=lambda predictor: predictor.fewest).used

    def work(self, row: Row) -> Iterator[Receipt]:
        """Finish every span of a row; receipts come as files are written. Raises what ended the worker."""
        receipts: Receipts = queue.SimpleQueue()
        with self._lock:
            if self.error is not None:
                raise self.error
            self.waiting.add(receipts)
        try:
            due = 0
            for span in self.reader.spans(row):
                if isinstance(span, Receipt):
                    yield span
                    continue
                self._read(span, receipts)
                due += 1
                while not receipts.empty():
                    yield _received(receipts)
                    due -= 1
            for _ in range(due):
                yield _received(receipts)
        except (GateClosed, RingClosed, PoolClosed) as closed:
            raise self.error or PipelineError("the worker was closed while it worked") from closed
        except Exception as error:
            self.fail(error)  # what the row has begun is not given back
            raise
        finally:
            with self._lock:
                self.waiting.discard(receipts)

    def _read(self, source: OpenSpan, receipts: Receipts) -> None:
        """Hand the images of a span to the children, batch by batch."""
        self.spans.enter()
        span = SpanUnderWay(self, source, receipts)
        batch: BatchUnderWay | None = None
        began = time.perf_counter()
        for item in source.items:
            span.seconds["read"] += time.perf_counter() - began
            if batch is None or batch.full:
                batch = self._next_batch(span, batch)
            batch.add(item)
            began = time.perf_counter()
        if batch is not None:
            batch.seal()
        span.facts, span.reading = source.close()
        span.part_done()

    def _next_batch(self, span: SpanUnderWay, before: BatchUnderWay | None) -> BatchUnderWay:
        if before is not None:
            before.seal()
        self.batches.enter()
        return BatchUnderWay(span, self.ring.take() if self.ring is not None else None)

    def decoded(self, batch: BatchUnderWay) -> None:
        """All images of a batch are decoded: it is the model's turn, unless there is nothing to ask."""
        if batch.wanted:
            self.finishers.submit(self._guarded, functools.partial(self._prepare, batch))
        else:
            batch.release()
            batch.span.part_done()

    def _prepare(self, batch: BatchUnderWay) -> None:
        self.ready.put((batch, self.predictor.prepare(*batch.content())))

    def _ask_model(self, predictor: Predictor | None) -> None:
        """A predictor's thread: batches in the order in which they are ready."""
        try:
            while (turn := self.ready.get()) is not None:
                if predictor is None:
                    predictor = self.load(self.spec)
                    self.predictors.append(predictor)
                batch, asked = turn
                self.ahead.enter()
                self.first_asked = self.first_asked or time.perf_counter()
                self._asked[id(batch)] = time.monotonic()
                step = predictor.step(asked)
                self.finishers.submit(self._guarded, functools.partial(self._finish_batch, batch, step))
            self.ready.put(None)  # for the other threads
        except GateClosed:
            return
        except Exception as error:
            self.fail(error)

    def _finish_batch(self, batch: BatchUnderWay, step: Step) -> None:
        step.copied()
        batch.release()
        answers = step.answers()
        self._asked.pop(id(batch), None)
        self.ahead.leave()
        with self._lock:
            self.busy_s += step.seconds
            self.last_done = time.perf_counter()
        batch.span.add_seconds("predict", step.seconds)
        batch.span.answered[batch.start] = self.predictor.encode(answers, step.reason)
        batch.span.part_done()

    def finish(self, span: SpanUnderWay) -> None:
        """Write a span all of whose parts are done, in a writer's thread."""
        self.writers.submit(self._guarded, span.finish)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as error:  # a thread's error is the worker's
            self.fail(error)

    def _watch(self, hung: Callable[[DeviceFailed], None]) -> None:
        while not self._ended.wait(WATCH_S):
            since = min(list(self._asked.values()), default=None)
            if since is not None and time.monotonic() - since > HANG_S:
                try:
                    hung(has_hung())
                except Exception as error:  # it has been started again often enough
                    self.fail(error)
                return

    def fail(self, error: Exception) -> None:
        """End everything with this error, unless another came first."""
        with self._lock:
            if self.error is None:
                self.error = error
            for receipts in self.waiting:
                receipts.put(self.error)
        for gate in (self.batches, self.spans, self.ahead):
            gate.close()

    def close(self) -> None:
        """End the children and threads; spans under way are abandoned."""
        is_well = self.error is None
        self._ended.set()
        self.fail(PipelineError("the worker is closed"))
        self.pool.close()
        if self.ring is not None:
            self.ring.close()
            if is_well and self.is_locked:
                unlock_pages(self.ring.memory)
        self.ready.put(None)
        for pool in (self.finishers, self.writers):
            pool.shutdown(wait=False, cancel_futures=True)


def _received(receipts: Receipts) -> Receipt:
    found = receipts.get()
    if isinstance(found, Exception):
        raise found
    return found
