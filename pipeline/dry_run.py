"""`--dry-run`: try a sample on this machine, predict time, files, bytes and memory, write nothing.

Of an output that has been begun, time is that of the images that a run would do; files and bytes are all of the source.
"""

from __future__ import annotations

import itertools
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.address import address_of
from pipeline.config import RunConfig
from pipeline.engine.cores import cores
from pipeline.engine.engine import InProcess
from pipeline.log import answer
from pipeline.output.bound import SpanSize
from pipeline.output.ledger import Ledger, Seen
from pipeline.plan.estimate import estimate
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.span_size import loose_spans, span_size_at
from pipeline.request import Request, propose
from pipeline.source.kinds import LooseImage, Shard, Source
from pipeline.source.passed import PassedBy, told
from pipeline.spec import JobSpec
from pipeline.status import OK

if TYPE_CHECKING:
    from pipeline.engine.spans import AnsweredSpan

SAMPLE = 64  # images tried
COUNT_S = 20.0  # time spent on counting the source


@dataclass(frozen=True)
class Count:
    """Images of the source: loose ones, and those of each shard; `note` says how exact that is. `passed` are none.

    `opened` of the shards tell of the others. `left` images are not finished.
    """

    loose: int
    shards: Sequence[int]
    note: str
    opened: int
    passed: PassedBy
    left: int

    @property
    def images(self) -> int:
        """All of them."""
        return self.loose + sum(self.shards)


class Begun:
    """An output as it is now, and what a run would still do. Nothing is written, and no data file is opened."""

    def __init__(self, spec: JobSpec, config: RunConfig) -> None:
        self.ledger = Ledger(spec.place) if config.overwrite else Ledger.load(spec.place)
        self.planner = Planner(spec.place, self.ledger, PlanSettings(spec.bound.span_size, spec.wanted))
        if not config.overwrite:
            self.planner.learn()

    @property
    def finished(self) -> list[Seen]:
        """What earlier runs have recorded of its files."""
        return [self.ledger.seen[name] for name in self.ledger.files if self.ledger.is_seen(name)]

    def left(self, sources: Sequence[Source], in_shards: Sequence[int], config: RunConfig) -> int:
        """About how many images a run would do; `in_shards` is how many each shard of the sources holds."""
        loose, shards = self.planner.loose, [source for source in sources if isinstance(source, Shard)]
        loose.meet([source for source in sources if isinstance(source, LooseImage)])
        new = len(loose.fresh) + sum(
            images for shard, images in zip(shards, in_shards, strict=True) if not self._is_finished(shard)
        )
        if config.limit is not None:
            self.planner.shards.count_planned()
            new = min(new, max(0, config.limit - loose.images - sum(self.planner.shards.planned.values())))
        missing = sum(planned.span.images for name, planned in loose.spans.items() if name not in self.ledger.files)
        failed = sum(seen.failed for seen in self.finished) if config.retry_failed else 0
        return new + missing + len(loose.changed) + failed

    def _is_finished(self, shard: Shard) -> bool:
        ref = self.planner.shards.meet(shard)
        return ref is None or next(self.planner.shards.rows(ref), None) is None


def dry_run(request: Request) -> int:
    """Print the prediction; the exit code is 0."""
    from pipeline.engine.span_decoder import SpanDecoder  # here and below: --help must not import torch
    from pipeline.engine.span_predictor import SpanPredictor

    if not request.config.local and address_of(request.config.ray_address):
        # The cluster's devices are not this machine's.
        request = replace(request, config=replace(request.config, device="auto"))
    config = request.config
    engine = InProcess(config)
    device = engine.device(request.trial)
    spec = propose(request, lambda: device)
    decoder = SpanDecoder(spec)
    try:
        span, pixels = decoder.sample(request.sources.listing(), min(SAMPLE, config.limit or SAMPLE))
    finally:
        decoder.close()
    predictor = SpanPredictor(spec)
    predictor.answer(span, pixels)  # the first batch also warms up
    began = time.perf_counter()
    done = predictor.answer(span, pixels)
    seconds = sum(span.seconds.values()) + time.perf_counter() - began
    begun = Begun(spec, config)
    count = _count(request, spec, begun)
    workers = engine.workers if config.local else _workers_of_ray(config, device.kind)
    who = f"{device.name}, batches of {spec.bound.batch_size}"
    _tell(spec, done, count, begun, seconds / max(1, len(done.rows)), workers, who)
    return 0


def _workers_of_ray(config: RunConfig, kind: str) -> int:
    """Predictors of a Ray on this machine."""
    from pipeline.engine.device import gpus

    bounds = config.worker_range()
    if bounds:
        return bounds[1]
    return cores() if kind == "cpu" else gpus()


def _count(request: Request, spec: JobSpec, begun: Begun) -> Count:
    """Images of the source: loose ones counted, those in shards estimated from a few shards."""
    deadline = time.monotonic() + COUNT_S
    listing = request.sources.listing()
    stream = iter(listing)
    seen: list[Source] = []
    while time.monotonic() < deadline and (source := next(stream, None)) is not None:
        seen.append(source)
    shards = [source for source in seen if isinstance(source, Shard)]
    loose = len(seen) - len(shards)
    packed, opened = estimate(shards, spec.wanted)
    note = "about " if shards else ""
    if next(stream, None) is not None:
        note = "at least "
    left, limit = begun.left(seen, packed, request.config), request.config.limit
    if limit is None or limit > loose + sum(packed):
        return Count(loose, packed, note, opened, listing.passed, left)
    before = itertools.accumulate(packed, initial=0)
    within = [min(images, max(0, limit - start)) for images, start in zip(packed, before, strict=False)]
    return Count(max(0, limit - sum(packed)), within, "", 0, listing.passed, left)


def _tell(
    spec: JobSpec, done: AnsweredSpan, count: Count, begun: Begun, each_s: float, workers: int, device: str
) -> None:
    images, note = count.images, count.note
    failed = sum(status != OK for status in done.rows["status"].to_pylist())
    sink = pa.BufferOutputStream()
    pq.write_table(done.rows, sink, compression="zstd")
    size = sink.tell() * images // max(1, len(done.rows))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    hours, rest = divmod(int(count.left * each_s / workers), 3600)
    answer(f"dry run: {len(done.rows)} images tried on this machine's {device} ({failed} failed); nothing was written")
    basis = f", by what {count.opened:,} of {len(count.shards):,} shards hold" if count.opened else ""
    answer(f"  source   {note}{images:,} images{basis}")
    for line in told(count.passed.photos, count.passed.others):
        answer(f"  {line}")
    needed = f"{hours}:{rest // 60:02d}:{rest % 60:02d}"
    who = "1 worker like this" if workers == 1 else f"{workers} workers like this"
    if files := len(begun.ledger.files):
        finished = sum(seen.images for seen in begun.finished)
        held = f"{finished:,} images in {files:,} files of {spec.place.root}"
        answer(f"  finished {held}: a run skips what has not changed")
    answer(f"  time     {needed} for {count.left:,} images with {who}, {each_s * 1000:.1f} ms an image")
    answer(f"  files    {_files(spec.bound.span_size, count)}, about {size / 1e6:,.2f} MB")
    answer(f"  memory   {memory / 1024:,.0f} MiB a worker")
    answer(f"  settings dtype {spec.bound.dtype}, span size {spec.bound.span_size.flag}")


def _files(span_size: SpanSize, count: Count) -> str:
    files = loose_spans(span_size, count.loose) + sum(-(-images // span_size.shard) for images in count.shards)
    rows = max(
        min(span_size.shard, max(count.shards, default=0)), span_size_at(span_size, count.loose) if count.loose else 0
    )
    return f"{files:,} of up to {rows:,} rows"
