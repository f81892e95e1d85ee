"""The visual tokens of every image, and how well a masked-modelling checkpoint predicts the hidden ones.

    python jobs/tokens.py --input PHOTOS --output tokens --model s3://b/dall-e
    python jobs/tokens.py --input PHOTOS --output surprise --model s3://b/beit-pt22k --tokenizer s3://b/dall-e

`dall-e` is what jobs/convert.py makes of DALL-E's encoder.pkl. Columns: uri, key, status, error, width, height, tokens;
with a masked-modelling checkpoint also masked, predicted (at every patch) and loss (mean over the masked ones).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from _cli import main

import numpy as np
import pyarrow as pa

import beit_core
from pipeline import model_files
from pipeline import tokenizer as dvae
from pipeline.errors import ConfigError
from pipeline.task import Batch, Columns, Task, other_job


@dataclass(frozen=True)
class Tokens(Task[Any]):
    """A tokenizer's tokens; with a masked-modelling checkpoint also its predictions under a block-wise mask."""

    name: ClassVar[str] = "tokens"
    mask_ratio: float = field(default=0.4, metadata={"help": "share of the patches to hide at most, in blocks"})
    seed: int = field(default=0, metadata={"help": "chooses, with the image's uri, which patches to hide (0)"})
    tokenizer: str | None = field(default=None, metadata={"help": "the dVAE whose tokens a masked --model predicts"})

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokenizer", self.tokenizer and model_files.name_for_workers(self.tokenizer))

    def check(self, card: beit_core.ModelCard) -> None:
        if card.head not in ("masked", "dvae"):
            raise ConfigError(f"--model {card.name} has no visual tokens (it is a {card.head}): use {other_job(card)}")
        if not 0 < self.mask_ratio <= 1:
            raise ConfigError(f"--mask-ratio {self.mask_ratio}: give a share above 0 and up to 1, such as 0.4")
        dvae.find(card, self.tokenizer)

    def settings(self, card: beit_core.ModelCard) -> dict[str, object]:
        return {} if card.head == "dvae" else {**vars(self), "tokenizer": dvae.find(card, self.tokenizer).fingerprint}

    def pixel_specs(self, card: beit_core.ModelCard) -> tuple[beit_core.PixelSpec, ...]:
        return (card.pixels,) if card.head == "dvae" else (card.pixels, dvae.find(card, self.tokenizer).pixels)

    def columns(self, card: beit_core.ModelCard) -> dict[str, pa.DataType]:
        count = dvae.shape(card).rows * dvae.shape(card).columns
        tokens = {"tokens": pa.list_(pa.int16(), count)}
        more = {"masked": pa.list_(pa.bool_(), count), "predicted": tokens["tokens"], "loss": pa.float32()}
        return tokens if card.head == "dvae" else tokens | more

    def load(self, card: beit_core.ModelCard) -> Any:
        model: Any = beit_core.load_model(card)
        if card.head == "masked":  # a Dvae stays float32 as a submodule too
            model.tokenizer = beit_core.load_dvae(dvae.find(card, self.tokenizer))
        return model

    def prepare(self, card: beit_core.ModelCard, uris: Sequence[str]) -> dict[str, np.ndarray]:
        return {} if card.head == "dvae" else {"masked": dvae.masks(card, self.mask_ratio, self.seed, uris)}

    def predict(self, model: Any, batch: Batch) -> Columns:
        if len(batch.views) == 1:
            return {"tokens": dvae.encode(model, batch.views[0]).short()}
        tokens_Bn, masked_Bn = dvae.encode(model.tokenizer, batch.views[1]), batch.prepared["masked"]
        logits_BnV = model(batch.pixels, masked_Bn).float()
        loss_Bn = logits_BnV.logsumexp(2) - logits_BnV.gather(2, tokens_Bn[..., None])[..., 0]  # cross-entropy
        loss_B = (loss_Bn * masked_Bn).sum(1) / masked_Bn.sum(1)
        found = {"tokens": tokens_Bn.short(), "predicted": logits_BnV.argmax(2).short()}
        return found | {"masked": masked_Bn, "loss": loss_B}


if __name__ == "__main__":
    main(Tokens, __doc__)
