r"""The most likely classes of every image, from a BEiT classifier.

    python jobs/label.py --input PHOTOS --output labels --model microsoft/beit-base-patch16-224
    ray job submit --working-dir . -- python jobs/label.py --input s3://bucket/shards --output s3://bucket/labels \
        --model s3://bucket/beit-base --keep cls

Columns: uri, key, status, error, width, height, label_ids, labels, scores (descending), and embedding if asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from _cli import main

import numpy as np
import pyarrow as pa

import beit_core
from pipeline.errors import ConfigError
from pipeline.task import Batch, Columns, Encoded, Task, other_job

if TYPE_CHECKING:
    from beit_core.heads import Classifier


@dataclass(frozen=True)
class Label(Task["Classifier"]):
    """Softmax over the checkpoint's classes, or the sigmoid of each where a picture may be of several; the best k."""

    name: ClassVar[str] = "label"
    top_k: int = field(default=5, metadata={"help": "classes per image"})
    threshold: float | None = field(default=None, metadata={"help": "drop classes with a lower score (none)"})
    with_embedding: bool = field(default=False, metadata={"help": "the image's vector too, from the same pass"})

    def check(self, card: beit_core.ModelCard) -> None:
        if card.head != "classifier":
            raise ConfigError(f"--model {card.name} has no classes (it is a {card.head}): use {other_job(card)}")
        if self.top_k < 1:
            raise ConfigError(f"--top-k {self.top_k}: give a number above 0")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"--threshold {self.threshold}: scores lie between 0 and 1")

    def columns(self, card: beit_core.ModelCard) -> dict[str, pa.DataType]:
        columns = {
            "label_ids": pa.list_(pa.int32()),
            "labels": pa.list_(pa.string()),
            "scores": pa.list_(pa.float32()),
        }
        return columns | ({"embedding": pa.list_(pa.float32(), card.beit.width)} if self.with_embedding else {})

    def load(self, card: beit_core.ModelCard) -> Classifier:
        return beit_core.load_classifier(card)

    def predict(self, model: Classifier, batch: Batch) -> Columns:
        pooled_BD, logits_BK = model(batch.pixels)
        exclusive = model.trunk.config.classes_exclude_each_other
        scores_BK = logits_BK.float().softmax(-1) if exclusive else logits_BK.float().sigmoid()
        best_Bk, ids_Bk = beit_core.top_k(scores_BK, self.top_k)  # here, so that few numbers leave the device
        best_Bk = best_Bk.masked_fill(~scores_BK.isfinite().all(1, keepdim=True), math.nan)  # wherever it was
        vectors = {"embedding": pooled_BD.float()} if self.with_embedding else {}
        return {"scores": best_Bk, "label_ids": ids_Bk, **vectors}

    def encode(self, card: beit_core.ModelCard, columns: Columns) -> Encoded:
        scores_Bk, ids_Bk = np.asarray(columns["scores"]), np.asarray(columns["label_ids"])
        kept = [int((scores >= (self.threshold or 0)).sum()) for scores in scores_Bk]  # they descend
        best = {
            "label_ids": [ids[:count].tolist() for ids, count in zip(ids_Bk, kept, strict=True)],
            "labels": [[card.labels[i] for i in ids[:count]] for ids, count in zip(ids_Bk, kept, strict=True)],
            "scores": [scores[:count].tolist() for scores, count in zip(scores_Bk, kept, strict=True)],
        }
        finite = np.isfinite(scores_Bk).all(1)
        errors = [None if good else "the model's scores are not finite; try --dtype float32" for good in finite]
        return Encoded({**columns, **best}, errors)


if __name__ == "__main__":
    main(Label, __doc__)
