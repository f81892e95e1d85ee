"""Which patches to hide: the block-wise masking of BEiT (arXiv 2106.08254, algorithm 1)."""

import hashlib
import math
from collections.abc import Sequence
from random import Random

from .config import Grid

LEAST = 16  # patches of a block; all that are wanted where those are fewer
ASPECT = 0.3  # height over width of a block lies between this and one over it
TRIES = 10  # to place a block, before the mask is left as it is
FIRST_TRIES = 100  # to place the first one: in training such a mask would stay empty


def block_masks(grid: Grid, share: float, seed: int, names: Sequence[str]) -> list[list[bool]]:
    """A mask for each picture, drawn from the seed and the picture's name, never from its place in a batch."""
    keys = [hashlib.sha256(f"{seed} {name}".encode(errors="surrogateescape")).digest() for name in names]
    return [block_mask(grid, share, Random(int.from_bytes(key))) for key in keys]


def block_mask(grid: Grid, share: float, chance: Random) -> list[bool]:
    """For each patch of a grid (down, across), row by row, whether it is hidden.

    Blocks are added until `share` of the patches is hidden. It is never more than that (but always one patch), and
    sometimes less: as in the published training code the mask stays as it is when no block that adds few enough
    patches was drawn.
    """
    left = wanted(grid, share)
    least = min(LEAST, left)
    hidden: set[Grid] = set()
    while left and (added := _draw_block(grid, hidden, least, left, chance)):
        hidden |= added
        left -= len(added)
    flat = [(y, x) in hidden for y in range(grid[0]) for x in range(grid[1])]
    if not hidden:  # narrow grids have no place for a block
        flat[chance.randrange(len(flat))] = True
    return flat


def wanted(grid: Grid, share: float) -> int:
    """How many patches of a grid (down, across) are to be hidden: this share, rounded down, but at least one."""
    return max(1, int(share * grid[0] * grid[1]))


def _draw_block(grid: Grid, hidden: set[Grid], least: int, most: int, chance: Random) -> set[Grid]:
    """Patches (y, x) that one more block adds to the hidden ones: `most` or fewer, none if no such block was drawn."""
    rows, columns = grid
    for _ in range(TRIES if hidden else FIRST_TRIES):
        area = chance.uniform(least, most)  # overlaps may bring a block of `least` below a smaller `most`
        aspect = math.exp(chance.uniform(math.log(ASPECT), -math.log(ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if not (1 <= height < rows and 1 <= width < columns):  # as unilm: no block hides a whole row or column
            continue
        top, left = chance.randint(0, rows - height), chance.randint(0, columns - width)
        fresh = {(y, x) for y in range(top, top + height) for x in range(left, left + width)} - hidden
        if 0 < len(fresh) <= most:
            return fresh
    return set()
