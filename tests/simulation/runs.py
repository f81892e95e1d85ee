"""One run of a simulation, or a forgetting: all but decoding and the model, which are not what is simulated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from typing import ClassVar

import pyarrow as pa

from beit_core import ModelCard, load_card
from pipeline.config import RunConfig
from pipeline.decode.decode import Decoded, DecodeSettings
from pipeline.engine.engine import Engine
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.predictor import Answered
from pipeline.engine.reader import Reader
from pipeline.engine.spans import UNDONE, AnsweredSpan, DecodedSpan, undecodable
from pipeline.errors import PipelineError
from pipeline.forget import Gone, Named, forget_under_lease
from pipeline.late_engine import LateEngine
from pipeline.output import lease
from pipeline.output.bound import SCHEMA, Bound, BoundModel, SpanSize, bind, bound_of
from pipeline.output.columns import schema_of
from pipeline.output.lease import IfRunning, Lease
from pipeline.output.place import Place
from pipeline.output.receipts import DeviceUsed, Receipt
from pipeline.plan.rows import Row
from pipeline.report import RunReport
from pipeline.request import Request
from pipeline.run import work_under_lease
from pipeline.source.item import Item, Wanted
from pipeline.source.naming import Sources
from pipeline.spec import Device, JobSpec, Trial
from pipeline.status import OK
from pipeline.task import Task
from tests.helpers import DATA
from tests.simulation.scheduler import Scheduler
from tests.simulation.source import INPUT, PHOTO, answer, row_of

SIZE = SpanSize(shard=3, least=1, most=4)
UNDER_WAY = 3  # spans read and not yet written, and rows read at once


class Simulated(Task):  # type: ignore[type-arg]  # it has no model
    """What the outputs of simulations are bound to."""

    name: ClassVar[str] = "simulated"


COLUMNS = {"answer": pa.string()}
BOUND = Bound(
    schema=SCHEMA, task=Simulated.name, settings={}, model=BoundModel("m", "encoder", "0", "hf"), dtype="float32",
    compile=False, batch_size=4, exact=False, keep=(), image_column=None, span_size=SIZE, versions={},
    image_endings=("png",),
)  # fmt: skip


@dataclass
class SimulatedRun:
    """A run, and how it goes about its work; `run()` returns its exit code or raises as `pipeline.run.run` does."""

    name: str
    output: str
    scheduler: Scheduler
    random: Random
    if_running: IfRunning = "join"
    retry_failed: bool = False
    limit: int | None = None
    photos: bool = False  # count as images, should it be the first run

    def run(self) -> int:
        """Bind the output, take the lease, and work."""
        place = Place.of(self.output)
        endings = (PHOTO.removeprefix("."), "png") if self.photos else ("png",)
        bound = bind(place, lambda _: replace(BOUND, image_endings=endings))
        wanted = Wanted(frozenset(bound.image_endings))
        request = request_of(self.output, wanted, retry_failed=self.retry_failed, limit=self.limit)
        identity = f"{int(1e9 + self.scheduler.clock()):d}-{self.name}"
        spec = JobSpec(place, request.task, "", bound, "cpu", DecodeSettings(()), wanted, request.schema, 600)
        held = Lease(place, identity)
        if not held.acquire(self.if_running):
            return 0
        report = RunReport(identity, Simulated.name)
        engine = LateEngine(request.config, report)
        engine.running = SimulatedEngine(held, self.scheduler, self.random)
        try:
            return work_under_lease(request, spec, engine, report)
        finally:
            held.release()


@dataclass
class SimulatedForget:
    """Forgetting as `pipeline.forget.forget` does it: images of these uris; without any, those that are gone."""

    name: str
    output: str
    scheduler: Scheduler
    uris: frozenset[str] | None
    max_gone: float = 1.0
    if_running: IfRunning = "join"

    def run(self) -> int:
        """Take the lease and forget; raises ConfigError where there is no output yet."""
        place = Place.of(self.output)
        bound_of(place)
        identity = f"{int(1e9 + self.scheduler.clock()):d}-{self.name}"
        held = Lease(place, identity)
        if not held.acquire(self.if_running):
            return 0
        try:
            selection = Gone(self.max_gone) if self.uris is None else Named(self.uris)
            return forget_under_lease(selection, place, identity)
        finally:
            held.release()


def request_of(output: str, wanted: Wanted, *, retry_failed: bool, limit: int | None) -> Request:
    """The command of a run."""
    config = RunConfig((INPUT,), output, "", retry_failed=retry_failed, limit=limit, max_failed=1.0, local=True)
    sources = Sources(config.input, "auto", frozenset({".png"}), wanted)
    return Request(config, Simulated(), digits(), Place.of(output), sources, [], wanted, schema_of(COLUMNS, {}))


@cache
def digits() -> ModelCard:
    """A card; nobody asks its model."""
    return load_card(DATA / "digits/model")


class SimulatedEngine(Engine):
    """Several rows are read at once, and spans written some time after they were read, in any order."""

    mode, workers, decoders, description = "simulated", 1, 0, "a simulation"

    def __init__(self, held: Lease, scheduler: Scheduler, random: Random) -> None:
        self.held, self.scheduler, self.random = held, scheduler, random
        self.renewed = scheduler.clock()

    def device(self, trial: Trial) -> Device:  # noqa: ARG002 - as every engine's
        return Device("cpu", "", "float32", 4)

    def execute(self, spec: JobSpec, rows: Iterator[Row]) -> Iterator[Receipt]:
        reader, reading = Reader(spec), list[Iterator[Receipt | OpenSpan]]()
        read: list[AnsweredSpan] = []
        while reading or read or (row := next(rows, None)):
            if not reading and not read:
                reading.append(reader.spans(row))
            self._renew()
            if read and (len(read) == UNDER_WAY or not reading or self.random.random() < 0.4):
                done = read.pop(self.random.randrange(len(read)))
                yield done.receipt(done.write(spec), 0.0)
                continue
            if len(reading) < UNDER_WAY and self.random.random() < 0.5 and (row := next(rows, None)):
                reading.append(reader.spans(row))
            one = self.random.choice(reading)
            span = next(one, None)
            if span is None:
                reading.remove(one)
            elif isinstance(span, Receipt):
                yield span
            else:
                read.append(answered(spec, span))

    def _renew(self) -> None:
        """What the lease's thread does, and what it lets pass."""
        if self.scheduler.clock() - self.renewed >= lease.BEAT_S:
            self.renewed = self.scheduler.clock()
            with suppress(OSError, PipelineError):
                self.held.beat()

    def close(self) -> None:
        """Nothing was started."""


def answered(spec: JobSpec, source: OpenSpan) -> AnsweredSpan:
    """A span as read, with the answers for all its images."""
    images: list[tuple[Item, Decoded]] = []
    answers: list[str | None] = []
    for item in source.items:
        data = item.data
        images.append((item, _decoded(source, item)))
        answers.append(answer(data) if isinstance(data, bytes) else None)
    span = DecodedSpan.of(spec, source.close(), images, source.before, {"read": 0.0, "decode": 0.0})
    return AnsweredSpan.of(spec, span, Answered({"answer": answers}, [None] * len(images)), 0.0, DeviceUsed("cpu"))


def _decoded(source: OpenSpan, item: Item) -> Decoded:
    if item.uri in source.undone:
        return UNDONE
    if not isinstance(item.data, bytes):
        return undecodable(item)
    status = row_of(item.data)[0]
    return Decoded(status, None, 1, 1) if status == OK else Decoded(status, "no image", None, None)
