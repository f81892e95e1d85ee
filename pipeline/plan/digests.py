"""A set of texts that holds millions: 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np


class Digests:
    """Texts by a digest each, in sorted arrays; each is at least twice as long as the next, so there are few."""

    def __init__(self) -> None:
        self.arrays: list[np.ndarray] = []

    def add(self, texts: Sequence[str]) -> None:
        """Take in these texts."""
        if not texts:
            return
        self.arrays.append(np.sort(_digests(texts)))
        while len(self.arrays) > 1 and len(self.arrays[-2]) < 2 * len(self.arrays[-1]):
            self.arrays[-2:] = [np.sort(np.concatenate(self.arrays[-2:]))]

    def hold(self, texts: Sequence[str]) -> np.ndarray:
        """Per text whether it is in the set: bool, (len(texts),)."""
        found = np.zeros(len(texts), bool)
        wanted = _digests(texts) if self.arrays else np.empty(0, "S16")
        for known in self.arrays:
            found |= known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
        return found


def _digests(texts: Sequence[str]) -> np.ndarray:
    raw = [hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=15).digest() for text in texts]
    return np.array([digest + b"\1" for digest in raw], "S16")  # NumPy would strip a zero byte at the end
