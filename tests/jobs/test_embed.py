"""Vectors, as the flags of the job ask for them."""

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (1e6, "the vector has numbers beyond float16; try --embedding-type float32"),
        (3e38, "the model's embedding is not finite; try --dtype float32"),
    ],
)
def test_a_vector_beyond_its_type_says_which_flag_helps(scale: float, said: str, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in (DIGITS / "model").iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    weights = load_file(model / "model.safetensors")
    weights["beit.pooler.layernorm.weight"].fill_(scale)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    shard = make_tar(tmp_path / "in/a.tar", [("a.png", png(3))])
    flags = {"model": model, "dtype": "float32", "max_failed": 1.0}
    assert run_here(shard, tmp_path / "half", "embed", embedding_type="float16", **flags) == 0
    assert rows(tmp_path / "half")["error"].to_pylist() == [said]
    assert run_here(shard, tmp_path / "whole", "embed", **flags) == 0
    assert rows(tmp_path / "whole")["status"].to_pylist() == ["ok" if scale < 1e7 else "predict_error"]
