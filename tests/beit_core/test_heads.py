"""The greatest scores: in their order, ties by class, the same as sorting them all."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from beit_core import top_k


@settings(deadline=None, max_examples=200)
@given(st.integers(1, 700), st.integers(1, 12), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_top_k_is_what_a_stable_sort_gives(classes: int, k: int, different: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    scores = chance.choice(chance.random(different, np.float32), (3, classes))  # ties everywhere
    values, ids = top_k(torch.from_numpy(scores), k)
    wanted = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert ids.tolist() == wanted.tolist()
    assert values.tolist() == np.take_along_axis(scores, wanted, 1).tolist()


@pytest.mark.parametrize("classes", [5, 1000, 21841])
def test_all_equal_scores_give_the_first_classes(classes: int) -> None:
    values, ids = top_k(torch.full((2, classes), 1 / classes), 5)
    assert ids.tolist() == [[0, 1, 2, 3, 4]] * 2
    assert values.unique().tolist() == [pytest.approx(1 / classes)]


def test_what_is_not_a_number_comes_first() -> None:
    _, ids = top_k(torch.tensor([[0.2, 0.3, float("nan"), 0.5]]), 2)
    assert ids.tolist() == [[2, 3]]
