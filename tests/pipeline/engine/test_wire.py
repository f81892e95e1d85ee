"""What travels between the steps of a Ray dataset arrives as it was, whatever it is."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.spans import AnsweredSpan, DecodedSpan
from pipeline.engine.wire import (
    answered_to_table,
    decoded_to_table,
    finished_to_table,
    reports_from_table,
    reports_to_table,
    rows_from_table,
    rows_to_table,
    span_from_table,
)
from pipeline.output.receipts import DeviceUsed, Reading, Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import LooseSpan, Redo, Row, ShardRef, ShardSpan, ShardState, UnreadShard, to_json

TEXT = st.text(max_size=8)
NUMBER = st.integers(0, 1 << 40)
URIS = st.lists(TEXT, max_size=3).map(tuple)
REDO = st.one_of(st.none(), st.builds(Redo, st.booleans(), URIS))
SHARD = st.builds(ShardRef, TEXT, NUMBER, TEXT, st.sampled_from(["tar", "zip"]), TEXT)
STATE = st.builds(ShardState, TEXT, TEXT, NUMBER)
ROWS = st.one_of(
    st.builds(LooseSpan, TEXT, TEXT, TEXT, NUMBER, NUMBER, REDO, URIS),
    st.builds(ShardSpan, SHARD, NUMBER, NUMBER, NUMBER, NUMBER, URIS),
    st.builds(UnreadShard, SHARD, NUMBER, st.none() | STATE, st.none() | NUMBER, st.booleans(), URIS),
)
STATUSES = st.dictionaries(TEXT, NUMBER, max_size=3)
FACTS = st.builds(SpanFacts, TEXT, TEXT, TEXT, NUMBER, NUMBER, NUMBER, STATUSES, forgotten=URIS)
READING = Reading(7, {".heic": 2})
QUICK = settings(max_examples=60, deadline=None, derandomize=True)


@QUICK
@given(st.lists(st.tuples(NUMBER, ROWS), max_size=4))
def test_rows_arrive_as_they_were(rows: list[tuple[int, Row]]) -> None:
    block = rows_to_table([(number, to_json(row)) for number, row in rows])
    assert len(block) == 1
    assert rows_from_table(block) == rows


@QUICK
@given(NUMBER, FACTS, st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), max_size=4), st.integers(1, 3))
def test_decoded_spans_arrive_with_their_pixels(
    number: int, facts: SpanFacts, sizes: list[tuple[int, int]], views: int
) -> None:
    random = np.random.default_rng(0)
    pixels = [[random.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes] for _ in range(views)]
    rows = pa.table({"uri": pa.array([str(i) for i in range(len(sizes))], pa.string())})
    todo = np.arange(len(sizes)) % 2 == 0
    span = DecodedSpan(facts, READING, rows, todo, ~todo, rows if sizes else None, {"read": 0.5})
    arrived, found = span_from_table(decoded_to_table(number, span, pixels))
    assert arrived == number
    assert isinstance(found, tuple)
    after, images = found
    assert (after.facts, after.reading, after.rows, after.before) == (facts, READING, rows, span.before)
    assert after.seconds == {"read": 0.5}
    assert (after.todo.tolist(), after.kept.tolist()) == (todo.tolist(), (~todo).tolist())
    assert [[image.tolist() for image in view] for view in images] == [[i.tolist() for i in view] for view in pixels]


def test_pixels_are_not_copied_on_arrival() -> None:
    pixels = [[np.full((4, 4, 3), 7, np.uint8)]]
    rows = pa.table({"uri": ["a"]})
    one = np.ones(1, bool)
    block = decoded_to_table(
        1, DecodedSpan(SpanFacts("a", "", "", 0, 1, 0), READING, rows, one, ~one, None, {}), pixels
    )
    _, found = span_from_table(block)
    assert isinstance(found, tuple)
    sent = np.frombuffer(block["pixels"].chunk(0).buffers()[2], np.uint8)
    assert np.shares_memory(found[1][0][0], sent)


@QUICK
@given(NUMBER, FACTS, st.integers(0, 9))
def test_answers_and_ends_arrive(number: int, facts: SpanFacts, done: int) -> None:
    rows = pa.table({"uri": ["a"], "x": [1.5]})
    answered = AnsweredSpan(facts, READING, rows, done, {"predict": 1.0}, DeviceUsed("cpu", "host:1", 8), {"cat": done})
    assert span_from_table(answered_to_table(number, answered)) == (number, answered)
    receipt = Receipt.of_finished(facts, READING)
    assert span_from_table(finished_to_table(number, receipt)) == (number, receipt)
    assert span_from_table(finished_to_table(number, None)) == (number, None)


@QUICK
@given(st.lists(st.tuples(NUMBER, st.none() | st.builds(Receipt, FACTS, NUMBER)), max_size=3))
def test_receipts_arrive_as_they_were(reports: list[tuple[int, Receipt | None]]) -> None:
    assert reports_from_table(reports_to_table(reports)) == reports
