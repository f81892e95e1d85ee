"""Masks by the paper's recipe: how many patches, in what shapes, and always the same ones."""

import statistics
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beit_core.block_masks import _draw_block, block_mask, block_masks, wanted

PAPER = (14, 14)


def drawn(count: int, grid: tuple[int, int] = PAPER, share: float = 0.4) -> list[list[bool]]:
    return [block_mask(grid, share, Random(seed)) for seed in range(count)]


@settings(deadline=None)
@given(rows=st.integers(1, 24), columns=st.integers(1, 24), share=st.floats(0.001, 1), seed=st.integers(0, 2**32))
def test_never_more_than_wanted_and_never_nothing(rows: int, columns: int, share: float, seed: int) -> None:
    mask = block_mask((rows, columns), share, Random(seed))
    assert len(mask) == rows * columns
    assert 1 <= sum(mask) <= max(1, share * rows * columns)


def test_nearly_all_that_is_wanted_is_hidden() -> None:
    hidden = [sum(mask) for mask in drawn(500)]
    assert wanted(PAPER, 0.4) == 78
    assert statistics.mean(hidden) > 74
    assert min(hidden) >= 16


def test_the_papers_75_of_196() -> None:
    assert wanted(PAPER, 75 / 196) == 75


def test_hidden_patches_come_in_blocks() -> None:
    """A hidden patch has 3.2 hidden neighbours where blocks are drawn, and 1.5 where patches are."""
    neighbours = []
    for mask in drawn(200):
        hidden = {divmod(i, 14) for i, flag in enumerate(mask) if flag}
        near = [sum((y + dy, x + dx) in hidden for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))) for y, x in hidden]
        neighbours.append(statistics.mean(near))
    assert statistics.mean(neighbours) > 2.8


def test_a_single_block_keeps_size_and_aspect() -> None:
    """Where no more than 16 patches are wanted, the first block is all there is: 2 x 7 to 7 x 2 patches."""
    shapes = set()
    for mask in drawn(300, share=16.5 / 196):
        hidden = [divmod(i, 14) for i, flag in enumerate(mask) if flag]
        rows, columns = {y for y, _ in hidden}, {x for _, x in hidden}
        if len(hidden) == len(rows) * len(columns) >= 12:  # else smaller blocks were added to it
            shapes.add((len(rows), len(columns)))
    assert {(4, 4), (2, 7), (7, 2)} <= shapes
    assert all(0.2 < height / width < 5 for height, width in shapes)


@pytest.mark.parametrize("grid", [(4, 4), (2, 30), (30, 2), (1, 1), (1, 50), (32, 32)])
def test_any_grid_gets_a_mask(grid: tuple[int, int]) -> None:
    hidden = [sum(mask) for mask in drawn(100, grid)]
    assert min(hidden) >= 1
    assert max(hidden) <= wanted(grid, 0.4)


def test_every_patch_gets_its_turn_and_the_corners_less_often() -> None:
    masks = drawn(1000)
    often = [statistics.mean(mask[i] for mask in masks) for i in range(196)]
    assert min(often) > 0.03
    assert often[0] < often[7 * 14 + 7]


def test_masks_come_from_seed_and_name_alone() -> None:
    names = ["a.jpg", "b.jpg", "ä #%=.jpg", "\udcff.jpg", ""]
    together = block_masks(PAPER, 0.4, 7, names)
    assert together == [block_masks(PAPER, 0.4, 7, [name])[0] for name in names]
    assert together == block_masks(PAPER, 0.4, 7, names[::-1])[::-1]
    assert len({tuple(mask) for mask in together}) == 5
    assert together != block_masks(PAPER, 0.4, 8, names)


def test_masks_stay_what_they_were() -> None:
    """Pinned: an output that is continued next year must hide what it would have hidden today."""
    (mask,) = block_masks(PAPER, 0.4, 0, ["s3://bucket/shard.tar#0001.png"])
    assert "".join(f"{sum(mask[row : row + 14]):x}" for row in range(0, 196, 14)) == "002529999bb550"


def test_no_single_block_hides_a_whole_row_or_column() -> None:
    """As in the published training code, which draws blocks shorter and narrower than the grid."""
    for seed in range(3000):
        hidden = _draw_block(PAPER, set(), 98, 98, Random(seed))  # half of the patches: some shapes are 14 long
        assert len({y for y, _ in hidden}) < 14
        assert len({x for _, x in hidden}) < 14


@pytest.mark.parametrize("share", [0.75, 0.9, 1.0])
def test_large_shares_of_small_grids_hide_most(share: float) -> None:
    """Few blocks fit there; where ten tries find none, as in training, there are more of them."""
    assert min(sum(mask) for mask in block_masks((8, 8), share, 0, [str(number) for number in range(300)])) > 32
