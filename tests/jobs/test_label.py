"""Scores of classes that exclude each other, and of those that do not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.flow import DIGITS, make_tar, png, run_here
from tests.helpers import rows


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_scores_are_a_softmax_or_a_sigmoid_of_each(problem: str, tmp_path: Path) -> None:
    """Of a picture that may be of several classes, logits are found again from each score alone."""
    model = shutil.copytree(DIGITS / "model", tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
    shard = make_tar(tmp_path / "in/a.tar", [(f"{n}.png", png(40 * n)) for n in range(4)])
    assert run_here(shard, tmp_path / "out", model=model, top_k=10) == 0
    assert run_here(shard, tmp_path / "plain", top_k=10) == 0
    found, plain = (rows(tmp_path / name) for name in ("out", "plain"))
    assert found["label_ids"].to_pylist() == plain["label_ids"].to_pylist()
    scores, softmax = (np.array(table["scores"].to_pylist()) for table in (found, plain))
    if problem.startswith("single"):
        assert np.array_equal(scores, softmax)
    else:
        logits = np.log(scores / (1 - scores))
        powers = np.exp(logits - logits.max(1, keepdims=True))
        assert np.allclose(powers / powers.sum(1, keepdims=True), softmax, atol=1e-5)
        assert not np.allclose(scores.sum(1), 1)
