"""The steps of one span, the same functions in every mode: read and decode, predict, write, receipt."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline import model_files
from pipeline.engine.reader import Loaded, Reader
from pipeline.errors import PipelineError
from pipeline.output.columns import OK, to_array
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import counted, write_span
from pipeline.plan.rows import Row
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.engine.predictor import Predicted, Predictor


class SpanWorker:
    """All steps fused in one process: what runs on CPU-only machines, and with `--local`."""

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.reader = Reader(spec)

    @functools.cached_property
    def predictor(self) -> Predictor:
        """The model, loaded when the first span needs it."""
        return load_predictor(self.spec)

    def __call__(self, row: Row) -> Iterator[Receipt]:
        """Finish every span of one dataset row."""
        for loaded in self.reader(row):
            if loaded.done:
                yield Receipt.of_finished(loaded.facts)
            else:
                yield write(self.spec, predict(self.spec, self.predictor, loaded))

    def close(self) -> None:
        """End the decoding child."""
        self.reader.decoder.close()


def load_predictor(spec: JobSpec) -> Predictor:
    """The task's model on this process's device; refuses a model that is not the one the driver has seen."""
    from beit_core import load_card
    from pipeline.engine.predictor import Predictor

    card = load_card(model_files.fetch(spec.model))
    if card.fingerprint != spec.bound.model.fingerprint:
        raise PipelineError(f"the model {spec.model} on this node is not the one that the run was started with")
    # What else a task reads, such as a tokenizer, it binds by content.
    here, bound = spec.task.settings(card), json.loads(json.dumps(dict(spec.bound.settings)))
    if changed := [name for name in bound if json.loads(json.dumps(here.get(name))) != bound[name]]:
        raise PipelineError(f"--{changed[0]} means something else on this node than where the run was started")
    sizes = {"batch_size": spec.batch_size, "span_size": spec.bound.span_size}
    return Predictor(spec.task, card, dtype=spec.bound.dtype, compiled=spec.bound.compile, **sizes)


def predict(spec: JobSpec, predictor: Predictor, loaded: Loaded) -> Loaded:
    """Fill in the task's columns: `rows` has the whole schema afterwards, and the pixels are gone."""
    began = time.perf_counter()
    predicted = predictor(loaded)
    rows = _fill(spec.schema, loaded, predicted)
    if loaded.before is not None:
        rows = _keep_rows(rows, loaded.before)
    seconds = {**loaded.seconds, "predict": time.perf_counter() - began}
    return replace(loaded, rows=rows, views=[], before=None, seconds=seconds)


def write(spec: JobSpec, loaded: Loaded) -> Receipt:
    """Write the span's file and report."""
    began = time.perf_counter()
    facts = counted(loaded.facts, loaded.rows)
    write_span(spec.place, loaded.rows, facts, spec.bound)
    seconds = {**loaded.seconds, "write": time.perf_counter() - began}
    return Receipt.of_written(facts, loaded.rows, seconds, facts.images - loaded.copied)


def _fill(schema: pa.Schema, loaded: Loaded, predicted: Predicted) -> pa.Table:
    rows, todo, errors = loaded.rows, loaded.todo, predicted.errors
    valid = todo & np.array([error is None for error in errors], bool)
    statuses = [
        "predict_error" if status == OK and error else status
        for status, error in zip(rows["status"].to_pylist(), errors, strict=True)
    ]
    reasons = [error or old for error, old in zip(errors, rows["error"].to_pylist(), strict=True)]
    arrays: list[pa.Array | pa.ChunkedArray] = []
    for field in schema:
        if field.name == "status":
            arrays.append(pa.array(statuses, field.type))
        elif field.name == "error":
            arrays.append(
                pa.array([None if s == OK else r for s, r in zip(statuses, reasons, strict=True)], field.type)
            )
        elif field.name in rows.schema.names:
            arrays.append(rows[field.name])
        elif field.name in predicted.columns:
            arrays.append(to_array(predicted.columns[field.name], valid, field.type))
        else:
            arrays.append(pa.nulls(len(rows), field.type))
    return pa.Table.from_arrays(arrays, schema=schema).combine_chunks()


def _keep_rows(rows: pa.Table, before: pa.Table) -> pa.Table:
    """Rows marked `copied` as they were in the finished file."""
    place = {uri: len(rows) + index for index, uri in enumerate(before["uri"].to_pylist())}
    statuses = rows["status"].to_pylist()
    uris = rows["uri"].to_pylist()
    take = [place[uri] if status == "copied" else i for i, (uri, status) in enumerate(zip(uris, statuses, strict=True))]
    return pa.concat_tables([rows, before.cast(rows.schema)]).take(pa.array(take)).combine_chunks()
