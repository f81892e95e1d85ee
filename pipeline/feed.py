"""How many images per second this machine can feed to an accelerator, compared with what its cores can decode.

A worker does all it does in a run - read, decode, batch, encode, write - for a model that costs nothing, or for one
that waits without using the CPU, as an accelerator does. In alternating turns, bare processes decode the same files on
all cores at once: that is the limit.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from beit_core import BeitConfig, ModelCard, PixelSpec
from pipeline.decode.decode import DecodeSettings, decode, extensions
from pipeline.engine.engine import cores, work_in_threads
from pipeline.engine.predictor import Predictor
from pipeline.engine.worker import Worker
from pipeline.errors import ConfigError
from pipeline.output.bound import SCHEMA, Bound, BoundModel
from pipeline.output.columns import schema_of
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan.planner import Order, Planner
from pipeline.source.fetch import fetched
from pipeline.source.format import FORMATS
from pipeline.source.item import Item, Position, Remote, Wanted
from pipeline.source.naming import Shard, Sources
from pipeline.spec import JobSpec
from pipeline.task import Batch, Columns, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

TURNS = 3
IMAGES, TARS = 2048, 16  # of the source that is made where none is given
BATCH, SPAN = 64, 256
SAMPLE = 512  # images that bare processes decode in a turn


class _OnDevice(PixelSpec):
    """A spec that does not normalise: an accelerator does that itself."""

    def normalize(self, pixels_BHWC: Tensor) -> Tensor:  # noqa: N803 - as in the class above
        """The bytes as they are."""
        return pixels_BHWC


@dataclass(frozen=True)
class Nothing(Task["nn.Module"]):
    """A model that answers at once, or at `rate` images per second without using the CPU (0: at once)."""

    name: ClassVar[str] = "nothing"
    rate: float = 0.0

    def views(self, card: ModelCard) -> tuple[PixelSpec, ...]:  # noqa: ARG002 - the same for all
        return (_OnDevice(),)

    def columns(self, card: ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - as above
        return {"nothing": pa.bool_()}

    def predict(self, model: nn.Module, batch: Batch) -> Columns:  # noqa: ARG002 - there is no model
        if self.rate:
            time.sleep(len(batch.uris) / self.rate)
        return {"nothing": [False] * len(batch.uris)}

    def load(self, card: ModelCard) -> nn.Module:  # noqa: ARG002 - as above
        import torch

        return torch.nn.Identity()


@dataclass(frozen=True)
class Feed:
    """Images a second through a worker and through bare decoding processes; `share` is their ratio, turn by turn.

    `busy` is the part of the time in which a simulated accelerator of `rate` images a second worked, from its first
    batch on; 0 where none was asked for.
    """

    images: int
    through_worker: float
    bare: float
    share: float
    rate: float
    busy: float

    def __str__(self) -> str:
        said = (
            f"feed: {self.through_worker:,.0f} images/s of {self.images:,} through a worker with {cores()} decoding "
            f"processes; decoding alone: {self.bare:,.0f} images/s; share {self.share:.2f}"
        )
        if not self.rate:
            return said
        verdict = (
            "it is fed" if self.busy >= 0.95 else f"decode-bound: {self._cores_missing()} more cores would feed it"
        )
        return f"{said}\nan accelerator of {self.rate:,.0f} images/s is busy {self.busy:.0%} of the time: {verdict}"

    def _cores_missing(self) -> int:
        return max(1, round(self.rate / (self.through_worker / cores())) - cores())


def feed(inputs: Sequence[str], rate: float = 0.0, turns: int = TURNS) -> Feed:
    """Measure with these inputs, or with JPEGs made for it. Raises ConfigError where there is no image."""
    with tempfile.TemporaryDirectory() as folder:
        if not inputs:
            inputs = [make_tars(Path(folder, "made"))]
        sources = Sources(tuple(inputs), "auto", extensions())
        settings = DecodeSettings((PixelSpec(),))
        files = list(itertools.islice(_files(sources), SAMPLE))
        if not files:
            raise ConfigError(f"--input {' '.join(inputs)}: no image that can be read")
        numbers = itertools.count()
        through: list[tuple[int, float]] = []
        bare: list[float] = []
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(cores(), spawn, _hold, (files, settings)) as pool:
            _bare(pool, len(files))  # starting is not measured
            for _ in range(turns):
                bare.append(_bare(pool, len(files)))
                through.append(_through(sources, settings, Path(folder, f"out{next(numbers)}"), 0.0, files[0])[:2])
        busy = _through(sources, settings, Path(folder, "rate"), rate, files[0])[2] if rate else 0.0
    rates = [images / seconds for images, seconds in through]
    share = statistics.median(ours / theirs for ours, theirs in zip(rates, bare, strict=True))
    return Feed(through[0][0], statistics.median(rates), statistics.median(bare), share, rate, busy)


def _files(sources: Sources) -> Iterator[bytes]:
    """The bytes of the sources' images."""
    endings = frozenset(ending.removeprefix(".") for ending in sources.extensions)
    for source in sources.listing():
        if isinstance(source, Shard):
            items = FORMATS[source.format].items(source.entry, Wanted(endings), Position())
        else:
            items = iter([Item(source.entry.uri, source.key, Remote(source.entry.uri))])
        yield from (item.data for item in fetched(items) if isinstance(item.data, bytes))


_held: tuple[Sequence[bytes], DecodeSettings] = ((), DecodeSettings(()))  # of a bare process: what it decodes


def _hold(files: Sequence[bytes], settings: DecodeSettings) -> None:
    global _held
    _held = files, settings


def _decode_share(first: int) -> int:
    files, settings = _held
    return sum(decode(data, settings.specs).status == "ok" for data in files[first :: cores()])


def _bare(pool: ProcessPoolExecutor, images: int) -> float:
    """Images a second of all cores at once."""
    began = time.perf_counter()
    list(pool.map(_decode_share, range(cores())))
    return images / (time.perf_counter() - began)


def _through(
    sources: Sources, settings: DecodeSettings, folder: Path, rate: float, data: bytes
) -> tuple[int, float, float]:
    """Images, seconds, and the model's busy share from its first batch to its last, through a worker."""
    spec = _spec(settings, Place(str(folder)), sources.extensions, rate)
    order = Order(SPAN, spec.wanted)
    planner = Planner(spec.place, Ledger.load(spec.place), order)
    worker = Worker(spec, cores(), Predictor(spec.task, _card(), dtype="float32", batch_size=BATCH, device="cpu"))
    try:
        _warm_up(worker, data)
        began, images = time.perf_counter(), 0
        for receipt in work_in_threads(worker, planner.rows(sources.listing())):
            images += receipt.images
        ended = time.perf_counter()
        return images, ended - began, worker.busy_s / (worker.last_done - worker.first_asked)
    finally:
        worker.close()


def _warm_up(worker: Worker, data: bytes) -> None:
    """Have every child of the worker decode, so that starting is not measured."""
    answered = threading.Semaphore(0)
    for _ in range(4 * cores()):
        worker.pool.submit(data, None, lambda _: answered.release())
    for _ in range(4 * cores()):
        answered.acquire()


def _card() -> ModelCard:
    return ModelCard(Path(), "nothing", "encoder", BeitConfig(), PixelSpec())


def _spec(settings: DecodeSettings, place: Place, endings: frozenset[str], rate: float) -> JobSpec:
    task = Nothing(rate)
    model = BoundModel("nothing", "encoder", "", "hf")
    bound = Bound(SCHEMA, task.name, {}, model, "float32", False, BATCH, False, (), None, None, SPAN, {})
    wanted = Wanted(frozenset(ending.removeprefix(".") for ending in endings))
    return JobSpec(place, task, "", bound, "cpu", settings, wanted, schema_of(task.columns(_card()), {}))


def make_tars(folder: Path) -> str:
    """Tars of a JPEG with the detail of a photograph, 500 x 375."""
    from pipeline.bench import photo

    folder.mkdir(parents=True)
    data = photo()
    for number in range(TARS):
        with tarfile.open(folder / f"{number:02d}.tar", "w") as tar:
            for image in range(IMAGES // TARS):
                info = tarfile.TarInfo(f"{image:05d}.jpg")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return str(folder)
