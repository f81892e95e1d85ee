"""Places on a map for vectors: neighbours stay neighbours, and crowded regions get room (t-SNE, exact, in NumPy)."""

from __future__ import annotations

import numpy as np

NEIGHBOURS = 12  # perplexity
STEPS, EARLY = 400, 100  # of the descent, the first of them with exaggerated attraction
MOVED = 1e-12


def spread_out(unit: np.ndarray) -> np.ndarray:
    """Places (N, 2) in the unit square for unit vectors (N, D): beginning with `plane`, the same every time."""
    start = plane(unit)
    if len(unit) < 3 * NEIGHBOURS:
        return start
    wanted = _attraction(unit)
    places = 1e-2 * (start - start.mean(axis=0))
    speed, gain = np.zeros_like(places), np.ones_like(places)
    for step in range(STEPS):
        near = 1 / (1 + _squares(places))
        np.fill_diagonal(near, 0)
        pull = ((12 if step < EARLY else 1) * wanted - near / near.sum()) * near
        slope = 4 * (pull.sum(axis=1, keepdims=True) * places - pull @ places)
        gain = np.maximum(np.where(np.sign(slope) == np.sign(speed), gain * 0.8, gain + 0.2), 0.01)
        speed = (0.5 if step < EARLY else 0.8) * speed - max(len(unit) / 12, 50) * gain * slope
        places = places + speed
        places -= places.mean(axis=0)
    return _in_square(places)


def plane(unit: np.ndarray) -> np.ndarray:
    """(N, D) on its two principal axes, scaled to the unit square."""
    centred = unit - unit.mean(axis=0)
    left, strength, axes = np.linalg.svd(centred, full_matrices=False)
    width = min(2, len(strength))
    turn = np.sign(axes[np.arange(width), np.abs(axes[:width]).argmax(axis=1)])  # the signs of an SVD are arbitrary
    places = np.zeros((len(unit), 2))
    places[:, :width] = left[:, :width] * strength[:width] * turn
    return _in_square(places)


def _in_square(places: np.ndarray) -> np.ndarray:
    low, high = places.min(axis=0), places.max(axis=0)
    inside: np.ndarray = (places - low) / np.maximum(high - low, MOVED)
    return inside


def _squares(places: np.ndarray) -> np.ndarray:
    """Squared distances (N, N)."""
    norms = (places**2).sum(axis=1)
    squares: np.ndarray = np.maximum(norms[:, None] + norms[None] - 2 * places @ places.T, 0)
    return squares


def _attraction(unit: np.ndarray) -> np.ndarray:
    """(N, N), of sum 1: how much of its neighbourhood each is to each, every one having as many neighbours."""
    squares = _squares(unit.astype(np.float64))
    np.fill_diagonal(squares, np.inf)
    squares -= squares.min(axis=1, keepdims=True)
    low, high = np.full((len(unit), 1), 1e-6), np.full((len(unit), 1), 1e9)
    for _ in range(50):  # bisection of each row's sharpness, until its entropy is that of so many neighbours
        sharp = np.sqrt(low * high)
        weights = np.exp(-squares * sharp)
        chance = weights / weights.sum(axis=1, keepdims=True)
        entropy = -(chance * np.log(np.maximum(chance, 1e-300))).sum(axis=1, keepdims=True)
        flat = entropy > np.log(NEIGHBOURS)
        low, high = np.where(flat, sharp, low), np.where(flat, high, sharp)
    mutual: np.ndarray = np.maximum((chance + chance.T) / (2 * len(unit)), 1e-12)
    return mutual
