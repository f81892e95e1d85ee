"""The steps before the model, a span at a time: for clusters that read and predict on different nodes, and dry runs."""

from __future__ import annotations

import itertools
import queue
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.decode.decode import Decoded
from pipeline.decode.pool import Answers, DecodePool, Packet
from pipeline.decode.process import Undecoded
from pipeline.engine.open_span import OpenSpan
from pipeline.engine.reader import Reader
from pipeline.engine.spans import UNDONE, DecodedSpan, undecodable
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import Row
from pipeline.source.item import Item
from pipeline.source.kinds import Source
from pipeline.spec import JobSpec

Pixels = list[list[np.ndarray]]  # per view an (H, W, 3) uint8 array for every image, black where there is none
AnswersOrError = queue.SimpleQueue[Answers | Exception]


class SpanPixels(NamedTuple):
    """A decoded span on its way to the model."""

    span: DecodedSpan
    pixels: Pixels


class SpanDecoder:
    """Reads rows and decodes their images, a span at a time."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec, self.reader = spec, Reader(spec)
        self._answers: AnswersOrError = queue.SimpleQueue()  # of the span that is being decoded
        self.pool = DecodePool(spec.decode, 1, None, lambda error: self._answers.put(error))

    def spans(self, row: Row) -> Iterator[Receipt | SpanPixels]:
        """The spans of a row: the receipt of one that was finished already, or the decoded span with its pixels."""
        for span in self.reader.spans(row):
            yield span if isinstance(span, Receipt) else self._decoded(span)

    def sample(self, sources: Iterable[Source], count: int) -> SpanPixels:
        """The first `count` images of these sources as one span, of which nothing is looked up or written."""
        items = itertools.chain.from_iterable(source.items(self.spec.wanted) for source in sources)
        return self._decoded(OpenSpan(SpanFacts("sample", "", "", 0, 0, 0), itertools.islice(items, count), None))

    def _decoded(self, source: OpenSpan) -> SpanPixels:
        # A queue for each span: one that could not be read to its end leaves answers that nobody takes.
        answers: AnswersOrError = queue.SimpleQueue()
        self._answers = answers
        seconds = {"read": 0.0, "decode": 0.0}
        items: list[Item] = []
        decoded: dict[int, Decoded] = {}
        began = time.perf_counter()
        for index, item in enumerate(source.items):
            seconds["read"] += time.perf_counter() - began
            items.append(item)
            if item.uri in source.undone:
                decoded[index], item.data = UNDONE, b""
            elif isinstance(item.data, bytes):
                data, item.data = item.data, b""
                self.pool.submit_packet(Packet([Undecoded(data, None, index)], answers.put))
            else:
                decoded[index] = undecodable(item)
            began = time.perf_counter()
        while len(decoded) < len(items):
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            decoded.update(answer)
        in_order = [decoded[index] for index in range(len(items))]
        seconds["decode"] = sum(answer.seconds for answer in in_order)
        images = list(zip(items, in_order, strict=True))
        span = DecodedSpan.of(self.spec, source.close(), images, source.before, seconds)
        return SpanPixels(span, _pixels(self.spec, in_order))

    def close(self) -> None:
        """End the children."""
        self.pool.close()


def _pixels(spec: JobSpec, answers: Sequence[Decoded]) -> Pixels:
    pixels: Pixels = []
    for number, view in enumerate(spec.decode.specs):
        black = np.zeros((*(view.size or (1, 1)), 3), np.uint8)
        pixels.append([answer.views[number] if answer.views else black for answer in answers])
    return pixels
