"""Scores of classes that exclude each other, and of those that do not."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from label import Label

from beit_core import load_card
from pipeline.task import Batch
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


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_score_that_is_no_number_fails_its_image_though_it_is_not_among_the_best(
    sign: float, problem: str, tmp_path: Path
) -> None:
    """Where the other scores are numbers, as sigmoids are, they would look like an answer."""
    folder = shutil.copytree(DIGITS / "model", tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
    task, card = Label(top_k=2), load_card(folder)
    model = task.load(card).eval()
    nothing = math.copysign(math.nan, sign)  # of either sign, as devices have it
    fill = torch.zeros(2, 10, dtype=torch.bool)
    fill[1, 7] = True
    model.register_forward_hook(lambda *args: (args[2][0], args[2][1].masked_fill(fill, nothing)))
    pixels = card.pixels.normalize(torch.full((2, *card.pixels.size, 3), 90, dtype=torch.uint8))
    with torch.inference_mode():
        answers = task.predict(model, Batch(["a", "b"], [(8, 8), (8, 8)], (pixels,), torch.float32))
    assert task.encode(card, answers).errors == [None, "the model's scores are not finite; try --dtype float32"]
