"""A span between its steps: decoded, then answered. Rows are in the order of the images all along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline.decode.decode import Decoded
from pipeline.output.columns import BASE, answers_in, kept_array, to_array
from pipeline.output.receipts import DeviceUsed, Reading, Receipt, examples, first_labels
from pipeline.output.span_file import SpanFacts, counted, write_span
from pipeline.source.item import Item
from pipeline.spec import JobSpec
from pipeline.status import OK, Status

if TYPE_CHECKING:
    from pipeline.engine.predictor import Answered

# Stands for an image that is not done now: its row, if it has one, stays; it has none where the image is forgotten.
UNDONE = Decoded(None, None, None, None)


def undecodable(item: Item) -> Decoded:
    """The decoding result of an image without bytes: the reason why."""
    status: Status = "decode_error" if isinstance(item.data, ValueError) else "fetch_error"
    return Decoded(status, str(item.data), None, None)


@dataclass(frozen=True)
class DecodedSpan:
    """A span whose images are decoded: all columns but the model's answers are known.

    `rows` has the base columns and those of --keep. `todo` (bool per image) says which the model is asked about, `kept`
    whose rows stay as they are in `before`; those of them that are not in `before` are forgotten and get no row.
    """

    facts: SpanFacts
    reading: Reading
    rows: pa.Table
    todo: np.ndarray
    kept: np.ndarray
    before: pa.Table | None
    seconds: dict[str, float]

    @staticmethod
    def of(
        spec: JobSpec, read: tuple[SpanFacts, Reading], images: Sequence[tuple[Item, Decoded]],
        before: pa.Table | None, seconds: dict[str, float],
    ) -> DecodedSpan:  # fmt: skip
        """From what `OpenSpan.close` tells, and the images with what decoding gave, in order."""
        rows = _base_rows(images)
        for name, type_ in spec.wanted.types.items():
            rows = rows.append_column(pa.field(name, type_), kept_array([i.kept.get(name) for i, _ in images], type_))
        todo = np.array([answer.status == OK for _, answer in images], bool)
        return DecodedSpan(*read, rows, todo, np.array([a is UNDONE for _, a in images], bool), before, seconds)


def _base_rows(images: Sequence[tuple[Item, Decoded]]) -> pa.Table:
    """The base columns of decoded images."""
    rows = [(item.uri, item.key, answer.status, answer.error, answer.width, answer.height) for item, answer in images]
    columns = zip(*rows, strict=True) if rows else [()] * len(BASE)
    arrays = [pa.array(values, field.type) for values, field in zip(columns, BASE, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(BASE))


@dataclass(frozen=True)
class AnsweredSpan:
    """A span with all its columns, ready to be written.

    `done` counts the images that are not kept from before, and `first_labels` them by their first label.
    """

    facts: SpanFacts
    reading: Reading
    rows: pa.Table
    done: int
    seconds: dict[str, float]
    device: DeviceUsed
    first_labels: dict[str, int]

    @staticmethod
    def of(spec: JobSpec, span: DecodedSpan, answered: Answered, seconds: float, device: DeviceUsed) -> AnsweredSpan:
        """From the decoded span and the answers for all its images, which took that device so many seconds."""
        rows, facts = _filled(spec.schema, span, answered), span.facts
        has_labels = "labels" in answers_in(spec.schema, spec.bound.keep)
        labels = first_labels(rows["labels"], ~span.kept) if has_labels else {}
        if span.kept.any():
            rows, forgotten = _with_kept(rows, span.kept, span.before)
            facts = replace(facts, forgotten=forgotten)
        done = len(span.kept) - int(span.kept.sum())
        seconds_by_step = {**span.seconds, "predict": seconds}
        return AnsweredSpan(facts, span.reading, rows, done, seconds_by_step, device, labels)

    def write(self, spec: JobSpec) -> SpanFacts:
        """Write the span's file; returns what its metadata hold."""
        facts = counted(self.facts, self.rows)
        write_span(spec.place, self.rows, facts, spec.bound)
        return facts

    def receipt(self, facts: SpanFacts, write_s: float) -> Receipt:
        """What the written span reports."""
        seconds = {**self.seconds, "write": write_s}
        return Receipt(facts, self.done, examples(self.rows), seconds, self.device, self.first_labels, self.reading)


def _filled(schema: pa.Schema, span: DecodedSpan, answered: Answered) -> pa.Table:
    """The rows with the whole schema: the task's columns are null where there is no answer, with the reason."""
    rows, errors = span.rows, answered.errors
    valid = span.todo & np.array([error is None for error in errors], bool)
    statuses, reasons = [], []
    for status, reason, error in zip(rows["status"].to_pylist(), rows["error"].to_pylist(), errors, strict=True):
        failed = status == OK and error is not None
        statuses.append("predict_error" if failed else status)
        reasons.append(error if failed else reason)
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name == "status":
            arrays.append(pa.array(statuses, field.type))
        elif field.name == "error":
            arrays.append(pa.array(reasons, field.type))
        elif field.name in rows.schema.names:
            arrays.append(rows[field.name])
        elif field.name in answered.columns:
            arrays.append(to_array(answered.columns[field.name], valid, field.type))
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    return pa.Table.from_arrays(arrays, schema=schema).combine_chunks()


def _with_kept(rows: pa.Table, kept: np.ndarray, before: pa.Table | None) -> tuple[pa.Table, tuple[str, ...]]:
    """The rows with those in their places that stay as they were; and the forgotten uris, which had none, sorted."""
    before = rows.schema.empty_table() if before is None else before.cast(rows.schema)
    place = {uri: len(rows) + index for index, uri in enumerate(before["uri"].to_pylist())}
    take: list[int] = []
    forgotten: list[str] = []
    for index, (uri, stays) in enumerate(zip(rows["uri"].to_pylist(), kept, strict=True)):
        if not stays:
            take.append(index)
        elif uri in place:
            take.append(place[uri])
        else:
            forgotten.append(uri)
    table = pa.concat_tables([rows, before]).take(pa.array(take, pa.int64())).combine_chunks()
    return table, tuple(sorted(forgotten))
