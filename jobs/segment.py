"""One class for every pixel.

    python jobs/segment.py --input PHOTOS --output masks --model microsoft/beit-base-finetuned-ade-640-640
    ray job submit --working-dir . -- python jobs/segment.py --input s3://b/photos --output s3://b/masks --model s3://b/ade

Columns: uri, key, status, error, width, height, mask (palette PNG: pixel = class id), classes (largest first).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from _cli import main

import pyarrow as pa

import beit_core
from pipeline import masks, model_files
from pipeline.errors import ConfigError
from pipeline.task import Batch, Columns, Encoded, Task, other_job

if TYPE_CHECKING:
    from beit_core.segmentation import Segmenter

CLASSES = pa.list_(pa.struct([("id", pa.int32()), ("label", pa.string()), ("fraction", pa.float32())]))


@dataclass(frozen=True)
class Segment(Task["Segmenter"]):
    """The likeliest class of each pixel of the upright image."""

    name: ClassVar[str] = "segment"
    semantics: Literal["original", "hf"] | None = field(
        default=None, metadata={"help": "read the checkpoint as in its training, or as transformers does (the card's)"}
    )
    inference: Literal["whole", "slide"] | None = field(
        default=None, metadata={"help": "whole image, or overlapping windows (whole for hf, slide for original)"}
    )

    def check(self, card: beit_core.ModelCard) -> None:
        if card.head != "segmenter":
            raise ConfigError(
                f"--model {card.name} has no class per pixel (it is a {card.head}): use {other_job(card)}"
            )

    def settings(self, card: beit_core.ModelCard) -> dict[str, object]:
        return {"semantics": self.semantics or card.semantics, "inference": self._inference(card)}

    def pixel_specs(self, card: beit_core.ModelCard) -> tuple[beit_core.PixelSpec, ...]:
        return (self._meant(card).pixels,)

    def columns(self, card: beit_core.ModelCard) -> dict[str, pa.DataType]:  # noqa: ARG002 - the same for all
        return {"mask": pa.binary(), "classes": CLASSES}

    def load(self, card: beit_core.ModelCard) -> Segmenter:
        return beit_core.load_segmenter(self._meant(card), self._inference(card))

    def predict(self, model: Segmenter, batch: Batch) -> Columns:
        at_once = (model.semantics, model.inference) == ("hf", "whole")  # others pad or window each image by itself
        given, to_map = (model(batch.pixels), beit_core.label_map) if at_once else (batch.pixels, model.segment)
        return {"mask": masks.label_maps(to_map, given, batch.sizes)}

    def encode(self, card: beit_core.ModelCard, columns: Columns) -> Encoded:
        maps = columns["mask"]
        errors = ["the model's logits are not finite; try --dtype float32" if one is None else None for one in maps]
        return Encoded(masks.columns(maps, card.labels, card.palette), errors)

    def _inference(self, card: beit_core.ModelCard) -> Literal["whole", "slide"]:
        meant = self.semantics or card.semantics
        return self.inference or ("whole" if meant == "hf" else "slide")

    def _meant(self, card: beit_core.ModelCard) -> beit_core.ModelCard:
        """The card under --semantics, which decides on pixels too."""
        return card if self.semantics in (None, card.semantics) else model_files.card(card.path, self.semantics)


if __name__ == "__main__":
    main(Segment, __doc__)
