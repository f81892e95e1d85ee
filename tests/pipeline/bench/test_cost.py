"""The figures of what decoding costs are of this run, and add up."""

import pytest

from beit_core import PixelSpec
from pipeline.bench.cost import decode_cost
from tests.photos import jpegs


def test_the_cost_has_both_processes_in_it() -> None:
    cost = decode_cost([data for _, _, data in jpegs(16, 500, 375)], PixelSpec(), turns=3)
    assert 0 < cost.parent_s < cost.quick_s < 1
    assert 0 < cost.exact_s < 1
    assert 0 < cost.ratio < 10


def test_sizes_that_vary_are_refused() -> None:
    with pytest.raises(ValueError, match="has no fixed size"):
        decode_cost([], PixelSpec(resize=64))
