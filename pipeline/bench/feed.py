"""How many images per second this machine can feed to an accelerator, compared with what its cores can decode.

A worker does all it does in a run - read, decode, batch, encode, write - for a model that costs nothing, or for one
that waits without using the CPU, as an accelerator does. In alternating turns, bare processes decode the same files on
all cores at once: that is the limit.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from beit_core import PixelSpec
from pipeline.bench.made import make_tars
from pipeline.bench.nothing import Images
from pipeline.bench.timing import Spread
from pipeline.config import RunConfig
from pipeline.decode.decode import decode
from pipeline.engine.cores import cores
from pipeline.engine.engine import work_in_threads
from pipeline.engine.worker import Worker
from pipeline.errors import ConfigError, PipelineError
from pipeline.output.place import Place
from pipeline.output.receipts import Receipt
from pipeline.report import FED

TURNS = 5
BARE_S = 5.0  # of bare decoding before and after each turn
ENOUGH_S = 1.0  # of a turn; what passes in less tells of how files happened to be written
LOOK_S = 0.5  # between two looks whether who is to answer is still there
EDGE = 8  # the first and the last of so many parts of a passage are not measured: starting, and running dry


class Passage(NamedTuple):
    """What went through in mid-stream, in how many seconds, and the share of the time in which the model worked."""

    images: int
    seconds: float
    busy: float


@dataclass(frozen=True)
class Feed:
    """Images a second through `way` and through bare decoding processes; `share` is their ratio, turn by turn.

    `seconds` is how long the shortest turn was measured. `busy` is the part of the time in which a simulated
    accelerator of `rate` images a second worked, from its first batch on; 0 where none was asked for.
    """

    way: str
    seconds: float
    through: float
    bare: float
    share: Spread
    rate: float
    busy: float

    def __str__(self) -> str:
        said = (
            f"feed: {self.through:,.0f} images/s through {self.way}, for {self.seconds:.1f} s in mid-stream; decoding "
            f"alone, on {cores()} cores: {self.bare:,.0f} images/s; share {self.share}"
        )
        if self.seconds < ENOUGH_S:
            said += "\nthat is too short to tell: give --input more images, some thousand for each core"
        if not self.rate:
            return said
        more = self._cores_missing()
        starves = f"decode-bound: {more} more core{'s' if more > 1 else ''} would feed it"
        verdict = "it is fed" if self.busy >= FED else starves
        return f"{said}\nan accelerator of {self.rate:,.0f} images/s is busy {self.busy:.0%} of the time: {verdict}"

    def to_json(self) -> dict[str, object]:
        """Its figures, by name."""
        return {**asdict(self), "share": self.share._asdict()}

    def _cores_missing(self) -> int:
        return max(1, round(self.rate / (self.through / cores())) - cores())


def feed(inputs: Sequence[str], rate: float = 0.0, ray_address: str | None = None) -> Feed:
    """Measure with these inputs, or with JPEGs made for it, in this process or with the workers of a Ray cluster.

    `rate` is that of the accelerator to simulate, 0 for none. Raises ConfigError where there is no image.
    """
    if not 0 <= rate < math.inf:
        raise ConfigError(f"--feed {rate:g}: give the accelerator's images per second, or no number")
    with tempfile.TemporaryDirectory() as folder:
        images = Images.of(inputs or [make_tars(Path(folder, "made"))])
        through: list[Passage] = []
        bare: list[float] = []
        spawn = multiprocessing.get_context("spawn")
        way = _OnRay(ray_address) if ray_address else Here()
        try:
            with ProcessPoolExecutor(cores(), spawn, _hold, (images.files, [PixelSpec()])) as pool:
                _bare(pool)  # starting is not measured
                bare.append(_bare(pool))
                for turn in range(TURNS):
                    through.append(way.run(images, Place(f"{folder}/out{turn}"), 0.0))
                    time.sleep(way.settle_s)
                    bare.append(_bare(pool))
            busy = way.run(images, Place(f"{folder}/rate"), rate).busy if rate else 0.0
        finally:
            way.close()
    rates = [passage.images / passage.seconds for passage in through]
    around = [(before + after) / 2 for before, after in itertools.pairwise(bare)]  # a machine's speed drifts
    shares = sorted(ours / theirs for ours, theirs in zip(rates, around, strict=True))
    share = Spread(shares[0], statistics.median(shares), shares[-1])
    seconds = min(passage.seconds for passage in through)
    return Feed(way.kind, seconds, statistics.median(rates), statistics.median(bare), share, rate, busy)


_held: tuple[Sequence[bytes], Sequence[PixelSpec]] = ((), ())  # of a bare process: what it decodes


def _hold(files: Sequence[bytes], specs: Sequence[PixelSpec]) -> None:
    global _held
    _held = files, specs
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A process of a pool does not see that its parent was killed: it holds both ends of the pipe on which it waits."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _decode_alone(_: int) -> float:
    """Images a second of this process."""
    files, specs = _held
    began, images = time.perf_counter(), 0
    while (spent := time.perf_counter() - began) < BARE_S:
        decode(files[images % len(files)], specs)
        images += 1
    return images / spent


def _bare(pool: ProcessPoolExecutor) -> float:
    """Images a second of all cores at once."""
    return sum(pool.map(_decode_alone, range(cores())))


class Mark(NamedTuple):
    """When the file of a span was written (seconds since 1970), and what is in it."""

    at: float
    images: int
    predict_s: float


def _marked(place: Place, receipt: Receipt) -> Mark:
    """Receipts may come several at once, long after their files."""
    written = Path(place.span_file(receipt.facts.name)).stat().st_mtime
    return Mark(written, receipt.images, receipt.seconds["predict"])


def _in_mid_stream(marks: Iterable[Mark], workers: int = 1) -> Passage:
    """What was answered between two moments at which about as much was under way.

    Raises PipelineError where there are too few marks to tell.
    """
    marks = sorted(marks)
    cut = len(marks) // EDGE
    first, *between = marks[cut : len(marks) - cut]
    if not between:
        raise PipelineError("the images are too few to tell how fast they pass: give some thousands")
    seconds = max(between[-1].at - first.at, 1e-9)
    busy = min(1.0, sum(mark.predict_s for mark in between) / seconds / workers)  # the first of it began before
    return Passage(sum(mark.images for mark in between), seconds, busy)


class Here:
    """A worker in this process, as with `--local`."""

    kind = "a worker"
    settle_s = 0.0

    def run(self, images: Images, place: Place, rate: float) -> Passage:
        """The images through the worker once."""
        spec = images.spec(place, rate)
        worker = Worker(spec, cores())
        try:
            _warm_up(worker, images.files[0])
            marks = [_marked(place, receipt) for receipt in work_in_threads(worker, images.rows(spec))]
            return _in_mid_stream(marks)._replace(busy=worker.busy_s / (worker.last_done - worker.first_asked))
        finally:
            worker.close()

    def close(self) -> None:
        """There is nothing to leave."""


class _OnRay:
    """The workers of a Ray cluster."""

    settle_s = 6.0  # Ray starts spare processes when actors end

    def __init__(self, address: str) -> None:
        from pipeline.engine.on_ray import OnRay  # here: without an address nobody needs Ray

        self.engine = OnRay(RunConfig(input=("-",), output="-", model="-", ray_address=address))
        self.kind = f"Ray ({self.engine.description})"

    def run(self, images: Images, place: Place, rate: float) -> Passage:
        """The images through the workers once."""
        spec = images.spec(place, rate)
        marks = [_marked(place, receipt) for receipt in self.engine.execute(spec, images.rows(spec))]
        return _in_mid_stream(marks, self.engine.workers)

    def close(self) -> None:
        """Leave the cluster."""
        self.engine.close()


def _warm_up(worker: Worker, data: bytes) -> None:
    """Have every child of the worker decode, so that starting is not measured. Raises what ended the worker."""
    answered = threading.Semaphore(0)
    for _ in range(4 * cores()):
        worker.pool.submit(data, None, lambda _: answered.release())
    for _ in range(4 * cores()):
        while not answered.acquire(timeout=LOOK_S):
            if worker.error is not None:
                raise worker.error
