"""What Ray's tasks do before they do anything."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
from label import Label

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.engine.steps import read_step, write_step
from pipeline.engine.wire import finished_to_table, rows_to_table
from pipeline.errors import PipelineError
from pipeline.output.place import Place
from pipeline.output.receipts import Receipt
from pipeline.output.span_file import SpanFacts
from pipeline.plan.rows import ShardRef, UnreadShard, to_json
from pipeline.request import begin, checked
from pipeline.spec import Device, JobSpec
from tests.flow import DIGITS, make_tar, png


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[JobSpec]:
    """A job whose output is a folder that this node does not have, as one that has joined the cluster lately."""
    make_tar(tmp_path / "in/a.tar", [("0.png", png(1))])
    config = RunConfig((str(tmp_path / "in"),), str(tmp_path / "out"), str(DIGITS / "model"), local=True)
    there = begin(checked(config, Label()), lambda: Device("cpu", "", "float32", 4))
    yield dataclasses.replace(there, place=Place(str(tmp_path / "elsewhere")))
    storage.be_patient(None)  # the steps make their process patient


def test_no_step_works_where_the_output_is_not_there(spec: JobSpec, tmp_path: Path) -> None:
    shard = ShardRef(str(tmp_path / "in/a.tar"), 2048, "1", "tar", "a-0")
    rows = rows_to_table([(0, to_json(UnreadShard(shard)))])
    with pytest.raises(PipelineError, match="elsewhere is not there on the node"):
        next(read_step(rows, spec, None))
    with pytest.raises(PipelineError, match="elsewhere is not there on the node"):
        write_step(finished_to_table(0, Receipt.of_finished(SpanFacts("a", "", "", 0, 1, 1))), spec, None)
    assert not (tmp_path / "elsewhere").exists()
