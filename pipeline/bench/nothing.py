"""A model that does nothing, and images for it: what is left of a run when predicting costs nothing."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from beit_core import ModelCard, PixelSpec, load_card
from pipeline.decode.decode import DecodeSettings, decode, endings, extensions
from pipeline.errors import ConfigError
from pipeline.output.bound import SCHEMA, Bound, BoundModel, SpanSize, bind
from pipeline.output.columns import schema_of
from pipeline.output.ledger import Ledger
from pipeline.output.place import Place
from pipeline.plan.planner import Planner, PlanSettings
from pipeline.plan.rows import Row
from pipeline.source.fetch import fetched
from pipeline.source.item import Wanted
from pipeline.source.kinds import Source
from pipeline.source.naming import Sources
from pipeline.spec import JobSpec
from pipeline.status import OK
from pipeline.task import Batch, Columns, Task

if TYPE_CHECKING:
    from torch import Tensor, nn

    from beit_core.pixels import Array

BATCH, SPAN = 64, 256
DECODE = DecodeSettings((PixelSpec(),))
SAMPLE = 512  # images that bare processes decode in a turn
MOST = 1 << 15  # images in about so many bytes are enough


class _OnDevice(PixelSpec):
    """A spec that does not normalise: an accelerator does that itself."""

    def normalize(self, pixels_BHWC: Tensor | Array) -> Tensor:  # noqa: N803 - as in the class above
        """The bytes as they are."""
        import torch  # here: a feed's driver that asks for --help needs none

        return torch.as_tensor(pixels_BHWC)


@dataclass(frozen=True)
class Nothing(Task["nn.Module"]):
    """A model that answers at once, or at `rate` images per second without using the CPU (0: at once)."""

    name: ClassVar[str] = "nothing"
    rate: float = 0.0

    def pixel_specs(self, card: ModelCard) -> tuple[PixelSpec, ...]:  # noqa: ARG002 - the same for all
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
class Images:
    """Images, and the bytes of the first of them."""

    sources: Sources
    files: Sequence[bytes]

    @staticmethod
    def of(inputs: Sequence[str]) -> Images:
        """The images of these inputs; raises ConfigError where there is none."""
        sources = Sources(tuple(inputs), "auto", extensions())
        files = list(itertools.islice(_files(sources), SAMPLE))
        if not files:
            raise ConfigError(f"--input {' '.join(inputs)}: no image that can be read")
        return Images(sources, files)

    def decodable(self, most: int) -> list[bytes]:
        """The first of the files that are not damaged; raises ConfigError where all are."""
        whole = (data for data in self.files if decode(data, (), exact=True).status == OK)
        if found := list(itertools.islice(whole, most)):
            return found
        raise ConfigError(f"--input {' '.join(self.sources.inputs)}: no image that can be decoded; give another")

    def spec(self, place: Place, rate: float) -> JobSpec:
        """What a worker needs for writing answers of a model of this rate; binds the output, a local folder."""
        folder = Path(f"{place.root}-model")
        _make_model(folder)
        task, card = Nothing(rate), load_card(folder)
        model = BoundModel(card.name, card.head, card.fingerprint, card.semantics)
        bound = Bound(
            schema=SCHEMA, task=task.name, settings=task.settings(card), model=model, dtype="float32", compile=False,
            batch_size=BATCH, exact=False, keep=(), image_column=None, span_size=SpanSize.fixed(SPAN), versions={},
            image_endings=tuple(sorted(endings())),
        )  # fmt: skip
        bind(place, lambda _: bound)
        wanted = Wanted(endings())
        schema = schema_of(task.columns(card), {})
        return JobSpec(place, task, str(folder), bound, "cpu", DECODE, wanted, schema, 600)

    def rows(self, spec: JobSpec) -> Iterator[Row]:
        """The plan, of no more than MOST images."""
        settings = PlanSettings(spec.bound.span_size, spec.wanted)
        return Planner(spec.place, Ledger.load(spec.place), settings).rows(self._enough())

    def _enough(self) -> Iterator[Source]:
        left = MOST * sum(map(len, self.files)) // len(self.files)
        for source in self.sources.listing():
            yield source
            left -= source.entry.size
            if left <= 0:
                return


def _make_model(folder: Path) -> None:
    """A card needs files; what is in them is never computed with."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    config = {"model_type": "beit", "architectures": ["BeitModel"], "hidden_size": 8, "num_hidden_layers": 1,
              "num_attention_heads": 1, "intermediate_size": 8}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(PixelSpec().to_hf()))
    save_file({"nothing": np.zeros(1, np.float32)}, folder / "model.safetensors")


def _files(sources: Sources) -> Iterator[bytes]:
    """The bytes of the sources' images."""
    items = itertools.chain.from_iterable(source.items(Wanted(endings())) for source in sources.listing())
    return (item.data for item in fetched(items) if isinstance(item.data, bytes))
