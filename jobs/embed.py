r"""One vector per image.

    python jobs/embed.py --input PHOTOS --output vectors --model microsoft/beit-base-patch16-224
    ray job submit --working-dir . -- python jobs/embed.py --input s3://bucket/shards --output s3://bucket/vectors \
        --model s3://bucket/beit-base

Columns: uri, key, status, error, width, height, embedding (fixed-size list).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

from _cli import main

import numpy as np
import pyarrow as pa

import beit_core
from pipeline.errors import ConfigError
from pipeline.task import Batch, Columns, Encoded, Task, other_job

if TYPE_CHECKING:
    from beit_core.heads import Embedder

TYPES = {"float32": pa.float32(), "float16": pa.float16()}


@dataclass(frozen=True)
class Embed(Task["Embedder"]):
    """The checkpoint's own pooled output, or another pooling of any layer's tokens."""

    name: ClassVar[str] = "embed"
    pool: Literal["mean", "cls", "cls+mean"] | None = field(
        default=None, metadata={"help": "how tokens are pooled (as in the checkpoint)"}
    )
    layer: int | None = field(default=None, metadata={"help": "take the tokens after this layer, from 1 (the last)"})
    unit_length: bool = field(default=False, metadata={"help": "divide each vector by its L2 norm"})
    embedding_type: Literal["float32", "float16"] = field(default="float32", metadata={"help": "type of the numbers"})

    def check(self, card: beit_core.ModelCard) -> None:
        if card.head == "dvae":
            raise ConfigError(f"--model {card.name} is a tokenizer and has no embedding: use {other_job(card)}")
        if self.layer is not None and not 1 <= self.layer <= card.beit.depth:
            raise ConfigError(f"--layer {self.layer}: {card.name} has layers 1 to {card.beit.depth}")

    def columns(self, card: beit_core.ModelCard) -> dict[str, pa.DataType]:
        width = card.beit.width * (2 if self.pool == "cls+mean" else 1)
        return {"embedding": pa.list_(TYPES[self.embedding_type], width)}

    def load(self, card: beit_core.ModelCard) -> Embedder:
        return beit_core.load_embedder(card, self.pool, self.layer)

    def predict(self, model: Embedder, batch: Batch) -> Columns:
        vectors_BD = model(batch.pixels).float()
        if self.unit_length:
            vectors_BD = vectors_BD / vectors_BD.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        return {"embedding": vectors_BD}

    def encode(self, card: beit_core.ModelCard, columns: Columns) -> Encoded:  # noqa: ARG002 - of any card
        if self.embedding_type == "float32":
            return Encoded(columns)
        vectors_BD = np.asarray(columns["embedding"])
        with np.errstate(over="ignore"):
            halves_BD = vectors_BD.astype(np.float16)
        beyond = np.isfinite(vectors_BD).all(1) & ~np.isfinite(halves_BD).all(1)
        advice = "the vector has numbers beyond float16; try --embedding-type float32"
        return Encoded({"embedding": halves_BD}, [advice if one else None for one in beyond])


if __name__ == "__main__":
    main(Embed, __doc__)
