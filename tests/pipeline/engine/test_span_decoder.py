"""Spans that are decoded one after another by one decoder."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from label import Label

from pipeline import storage
from pipeline.config import RunConfig
from pipeline.engine.span_decoder import SpanDecoder
from pipeline.errors import ConfigError
from pipeline.request import begin, checked
from pipeline.source.kinds import Shard
from pipeline.spec import Device
from tests.flow import DIGITS, make_tar, png


def test_a_span_that_could_not_be_read_leaves_no_answer_to_the_next(tmp_path: Path) -> None:
    def shard(name: str, kind: str) -> Shard:
        entry = storage.stat(str(tmp_path / name))
        assert entry is not None
        return Shard(entry, kind)

    make_tar(tmp_path / "dark.tar", [(f"{number}.png", png(10)) for number in range(3)])
    make_tar(tmp_path / "bright.tar", [(f"{number}.png", png(200)) for number in range(3)])
    pq.write_table(pa.table({"note": ["no image"]}), tmp_path / "none.parquet")
    config = RunConfig((str(tmp_path / "bright.tar"),), str(tmp_path / "out"), str(DIGITS / "model"), local=True)
    spec = begin(checked(config, Label()), lambda: Device("cpu", "", "float32", 4))
    decoder = SpanDecoder(spec)
    try:
        with pytest.raises(ConfigError, match="image column"):
            decoder.sample([shard("dark.tar", "tar"), shard("none.parquet", "parquet")], 4)
        _, pixels = decoder.sample([shard("bright.tar", "tar")], 3)
    finally:
        decoder.close()
    assert [int(image.max()) for image in pixels[0]] == [200, 200, 200]
