"""Which patches to hide: the block-wise masking of BEiT (arXiv 2106.08254, algorithm 1)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from random import Random

LEAST = 16  # patches of a block; all that are wanted where those are fewer
ASPECT = 0.3  # height over width of a block lies between this and one over it
TRIES = 10  # to place a block, before the mask is left as it is

Mask = list[list[bool]]


def block_masks(grid: tuple[int, int], share: float, seed: int, names: Sequence[str]) -> list[list[bool]]:
    """A mask for each picture, drawn from the seed and its name alone: the same in whatever company it comes."""
    keys = [hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest() for name in names]
    return [block_mask(grid, share, Random(int.from_bytes(key))) for key in keys]


def block_mask(grid: tuple[int, int], share: float, chance: Random) -> list[bool]:
    """For each patch of a grid (down, across), row by row, whether it is hidden.

    Blocks are added until `share` of the patches is hidden. It is never more than that (but always one patch), and
    sometimes less: as in the published training code the mask stays as it is when no block that adds few enough
    patches was drawn.
    """
    rows, columns = grid
    left = wanted(grid, share)
    least = min(LEAST, left)
    mask: Mask = [[False] * columns for _ in range(rows)]
    while left and (added := _add_block(mask, least, left, chance)):
        left -= added
    flat = [hidden for row in mask for hidden in row]
    if not any(flat):  # narrow grids have no place for a block
        flat[chance.randrange(len(flat))] = True
    return flat


def wanted(grid: tuple[int, int], share: float) -> int:
    """How many patches of a grid (down, across) are to be hidden: this share, rounded down, but at least one."""
    return max(1, int(share * grid[0] * grid[1]))


def _add_block(mask: Mask, least: int, most: int, chance: Random) -> int:
    """Hide one more block, which adds `most` patches or fewer; returns how many it added, 0 if none was drawn."""
    rows, columns = len(mask), len(mask[0])
    for _ in range(TRIES):
        area = chance.uniform(least, most)  # overlaps may bring a block of `least` below a smaller `most`
        aspect = math.exp(chance.uniform(math.log(ASPECT), -math.log(ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (1 <= height <= rows and 1 <= width <= columns):
            continue
        top, left = chance.randint(0, rows - height), chance.randint(0, columns - width)
        block = [(y, x) for y in range(top, top + height) for x in range(left, left + width)]
        fresh = [(y, x) for y, x in block if not mask[y][x]]
        if 0 < len(fresh) <= most:
            for y, x in fresh:
                mask[y][x] = True
            return len(fresh)
    return 0
