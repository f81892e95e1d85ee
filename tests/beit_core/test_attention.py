"""Relative position bias: exact at the trained size, resampled once for others."""

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from transformers.models.beit.modeling_beit import BeitConfig as ReferenceConfig
from transformers.models.beit.modeling_beit import BeitRelativePositionBias

from beit_core.attention import CACHED_ELEMENTS, RelativeBias, relative_position_index, resample_table, table_rows
from beit_core.config import BeitConfig

GRIDS = [(1, 1), (2, 2), (4, 4), (3, 5), (7, 2), (14, 14)]


@pytest.mark.parametrize("size", GRIDS)
def test_index_is_the_references(size: tuple[int, int]) -> None:
    assert torch.equal(relative_position_index(size), BeitRelativePositionBias.generate_relative_position_index(size))


@torch.no_grad()  # transformers keeps its index, perhaps from a test in inference mode
@pytest.mark.parametrize("target", GRIDS)
def test_bias_is_the_references(target: tuple[int, int]) -> None:
    reference = BeitRelativePositionBias(ReferenceConfig(image_size=64, num_attention_heads=3, hidden_size=12))
    reference.relative_position_bias_table.normal_()
    bias = RelativeBias(BeitConfig(image_size=(64, 64), heads=3, depth=1, relative_bias=True))
    bias.tables[0].data = reference.relative_position_bias_table.data
    assert torch.equal(bias.for_grid(target)[0], reference(target))


def geometric_points(source: int, target: int) -> list[float]:
    """unilm's construction of the source coordinates, written out."""
    left, right = 1.01, 1.5
    while right - left > 1e-6:
        q = (left + right) / 2.0
        reach = (1.0 - q ** (source // 2)) / (1.0 - q)
        left, right = (left, q) if reach > target // 2 else (q, right)
    distances, current = [], 1.0
    for i in range(source // 2):
        distances.append(current)
        current += q ** (i + 1)
    return [-d for d in reversed(distances)] + [0.0] + distances


@pytest.mark.parametrize("grids", [((4, 4), (6, 6)), ((14, 14), (24, 24)), ((4, 6), (5, 9)), ((8, 8), (5, 5))])
def test_geometric_resampling_is_scipys_cubic_spline(grids: tuple[tuple[int, int], tuple[int, int]]) -> None:
    source, target = grids
    (height, width), (tall, wide) = ([2 * side - 1 for side in grid] for grid in grids)
    table = torch.randn(table_rows(source), 2, dtype=torch.float64)
    ours = resample_table(table, source, target, "geometric")
    ys, xs = geometric_points(height, tall), geometric_points(width, wide)
    y, x = (np.clip(np.arange(side) - side // 2, points[0], points[-1]) for side, points in ((tall, ys), (wide, xs)))
    for head in range(2):
        spline = RectBivariateSpline(ys, xs, table[:-3, head].view(height, width).numpy(), kx=3, ky=3, s=0)
        right = torch.from_numpy(spline(y, x)).flatten()
        torch.testing.assert_close(ours[:-3, head], right, rtol=1e-9, atol=1e-9)
    assert torch.equal(ours[-3:], table[-3:])


def test_geometric_resampling_keeps_the_trained_grid() -> None:
    table = torch.randn(table_rows((4, 6)), 2)
    assert torch.equal(resample_table(table, (4, 6), (4, 6), "geometric"), table)


@pytest.mark.parametrize("grids", [((1, 1), (3, 3)), ((2, 1), (4, 2))])
def test_geometric_resampling_of_tiny_grids_is_finite(grids: tuple[tuple[int, int], tuple[int, int]]) -> None:
    table = torch.randn(table_rows(grids[0]), 2)
    assert resample_table(table, *grids, "geometric").isfinite().all()


def small_bias() -> RelativeBias:
    bias = RelativeBias(BeitConfig(image_size=(64, 64), heads=2, depth=2, relative_bias=True))
    for table in bias.tables:
        table.data.normal_()
    return bias


def test_bias_is_made_once_for_a_grid_and_again_for_a_new_dtype() -> None:
    bias = small_bias()
    made = []
    build = bias.build
    bias.build = lambda grid: made.append(grid) or build(grid)  # type: ignore[method-assign, func-returns-value]
    first = bias.for_grid((4, 4))
    assert bias.for_grid((4, 4)) is first
    bias.for_grid((3, 4))
    assert bias.for_grid((4, 4)) is first
    assert made == [(4, 4), (3, 4)]
    assert bias.to(torch.bfloat16).for_grid((4, 4))[0].dtype == torch.bfloat16


def test_only_the_latest_of_large_grids_is_remembered() -> None:
    bias = small_bias()
    side = int(CACHED_ELEMENTS**0.25) + 1
    bias.build = lambda _: []  # type: ignore[method-assign]
    bias.for_grid((4, 4))
    bias.for_grid((side, side))
    bias.for_grid((side, side + 1))
    assert list(bias._built) == [(side, side + 1)]


def test_rows_of_the_bias_are_aligned_for_attention_kernels() -> None:
    bias = small_bias().for_grid((3, 3))[0]
    assert bias.shape == (1, 2, 10, 10)
    assert bias.stride(2) == 16
