"""The steps before the model, a span at a time: for clusters that read and predict on different nodes, and dry runs."""

from __future__ import annotations

import functools
import itertools
import queue
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from pipeline.decode.decode import Decoded
from pipeline.decode.pool import DecodePool
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.reader import Reader
from pipeline.engine.spans import UNDONE, DecodedSpan, undecodable
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import Row
from pipeline.source.item import Item
from pipeline.source.kinds import Source
from pipeline.spec import JobSpec

Pixels = list[list[np.ndarray]]  # per view an (H, W, 3) uint8 array for every image, black where there is none


class SpanDecoder:
    """Reads rows and decodes their images, a span at a time."""

    def __init__(self, spec: JobSpec, children: int = 1) -> None:
        self.spec, self.reader = spec, Reader(spec)
        self.answers: queue.SimpleQueue[tuple[int, Decoded] | Exception] = queue.SimpleQueue()
        self.pool = DecodePool(spec.decode, children, None, self.answers.put)

    def spans(self, row: Row) -> Iterator[SpanFacts | tuple[DecodedSpan, Pixels]]:
        """The spans of a row: the facts of one that was finished already, or the decoded span with its pixels."""
        for span in self.reader.spans(row):
            yield span if isinstance(span, SpanFacts) else self._decoded(span)

    def sample(self, sources: Iterable[Source], count: int) -> tuple[DecodedSpan, Pixels]:
        """The first `count` images of these sources as one span, of which nothing is looked up or written."""
        items = itertools.chain.from_iterable(source.items(self.spec.wanted) for source in sources)
        return self._decoded(OpenSpan(SpanFacts("sample", "", "", 0, 0, 0), itertools.islice(items, count), None))

    def _decoded(self, source: OpenSpan) -> tuple[DecodedSpan, Pixels]:
        seconds = {"read": 0.0, "decode": 0.0}
        images: list[tuple[Item, Decoded]] = []
        due, began = 0, time.perf_counter()
        for index, item in enumerate(source.items):
            seconds["read"] += time.perf_counter() - began
            began = time.perf_counter()
            data, item.data = item.data, b""
            if item.uri in source.undone:
                images.append((item, UNDONE))
            elif isinstance(data, bytes):
                images.append((item, UNDONE))  # until the answer comes
                self.pool.submit(data, None, functools.partial(self._answer, index))
                due += 1
            else:
                item.data = data
                images.append((item, undecodable(item)))
            began = time.perf_counter()
        for _ in range(due):
            answer = self.answers.get()
            if isinstance(answer, Exception):
                raise answer
            images[answer[0]] = images[answer[0]][0], answer[1]
        seconds["decode"] = sum(answer.seconds for _, answer in images)
        span = DecodedSpan.of(self.spec, source.close(), images, source.before, seconds)
        return span, _pixels(self.spec, [answer for _, answer in images])

    def _answer(self, index: int, answer: Decoded) -> None:
        self.answers.put((index, answer))

    def close(self) -> None:
        """End the children."""
        self.pool.close()


def _pixels(spec: JobSpec, answers: Sequence[Decoded]) -> Pixels:
    pixels: Pixels = []
    for number, view in enumerate(spec.decode.specs):
        black = np.zeros((*(view.size or (1, 1)), 3), np.uint8)
        pixels.append([answer.views[number] if answer.views else black for answer in answers])
    return pixels
