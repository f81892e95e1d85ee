"""Colours for classes that are told apart: by how different they look, not by how different their numbers are."""

from __future__ import annotations

import functools
import itertools

import numpy as np

GREY = "#888888"  # of classes beyond those that are listed
LEVELS = (48, 96, 144, 192, 240)


def laboratory(rgb: np.ndarray) -> np.ndarray:
    """(N, 3) sRGB 0..255 as CIE L*a*b* (D65), in which distances are roughly as people see them."""
    part = rgb / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = linear @ matrix.T / np.array([0.9505, 1.0, 1.089])
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


@functools.cache
def distinct(count: int) -> tuple[str, ...]:
    """`count` colours, each as far as can be from all before it, and twice as much from the one just before it."""
    grid = np.array(list(itertools.product(LEVELS, repeat=3)))
    seen = laboratory(grid)
    lively = np.hypot(seen[:, 1], seen[:, 2]) > 30
    grid, seen = grid[lively], seen[lively]
    chosen = [int(np.abs(grid - (48, 96, 240)).sum(axis=1).argmin())]
    nearest = np.full(len(grid), np.inf)
    while len(chosen) < count:
        last = np.linalg.norm(seen - seen[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, last)
        chosen.append(int(np.minimum(nearest, last / 2).argmax()))
    return tuple("#{:02x}{:02x}{:02x}".format(*grid[place]) for place in chosen[:count])
