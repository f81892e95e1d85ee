"""The model, asked about a span at a time: for clusters that read and predict on different nodes, and dry runs."""

from __future__ import annotations

import time
from functools import partial

import numpy as np

from pipeline.engine.device import in_time
from pipeline.engine.loading import load_predictor
from pipeline.engine.predictor import Answered, Asked, joined
from pipeline.engine.span_decoder import Pixels
from pipeline.engine.spans import AnsweredSpan, DecodedSpan
from pipeline.spec import JobSpec


class SpanPredictor:
    """Asks the model about decoded spans."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.predictor = load_predictor(spec)

    def answer(self, span: DecodedSpan, pixels: Pixels) -> AnsweredSpan:
        """The span with the model's answers."""
        began = time.perf_counter()
        size = self.spec.bound.batch_size
        answered: dict[int, Answered] = {}
        for start in range(0, len(span.todo), size):
            if span.todo[start : start + size].any():
                answered[start] = in_time(partial(self._answered, self._asked(span, pixels, start)))
        answers = joined(answered, len(span.todo), size)
        return AnsweredSpan.of(self.spec, span, answers, time.perf_counter() - began, self.predictor.used)

    def _answered(self, asked: Asked) -> Answered:
        step = self.predictor.step(asked)
        return self.predictor.encode(step.answers(), step.reason)

    def _asked(self, span: DecodedSpan, pixels: Pixels, start: int) -> Asked:
        rows = span.rows.slice(start, self.spec.bound.batch_size)
        padding = self.spec.bound.batch_size - len(rows)
        todo = span.todo[start : start + len(rows)]
        sizes = [
            (height, width) if wanted else (0, 0)
            for height, width, wanted in zip(rows["height"].to_pylist(), rows["width"].to_pylist(), todo, strict=True)
        ]
        views = []
        for view in pixels:
            batch = np.zeros((len(rows) + padding, *view[start].shape), np.uint8)
            np.stack(view[start : start + len(rows)], out=batch[: len(rows)])
            views.append(batch)
        uris = rows["uri"].to_pylist() + [""] * padding
        return self.predictor.prepare(tuple(views), uris, sizes + [(0, 0)] * padding)
