"""How much a text repeats itself, in lines, paragraphs and n-grams."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_PRIME = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that multiplying loses nothing; 2**64 over the golden ratio, as in Fibonacci hashing."""


def duplicate_shares(parts: Sequence[str]) -> tuple[float, float]:
    """The share of parts that were there before, and the share of characters in them.

    (Rae et al. 2021, "Scaling language models", section A.1.1.)
    """
    seen: set[str] = set()
    copies = characters = 0
    for part in parts:
        if part in seen:
            copies += 1
            characters += len(part)
        seen.add(part)
    total = sum(map(len, parts))
    return (copies / len(parts), characters / total) if total else (0.0, 0.0)


class Grams:
    """The n-grams of the units of a text, as hashes, for one n after the other.

    Attributes:
        total: Characters of all units.
    """

    def __init__(self, units: Sequence[str]) -> None:
        numbers: dict[str, int] = {}
        ids = [numbers.setdefault(unit, len(numbers) + 1) for unit in units]
        self._ids: NDArray[np.uint64] = np.array(ids, dtype=np.uint64)
        self._ends = np.cumsum([0, *map(len, units)])
        self.total = int(self._ends[-1])

    def top_share(self, n: int) -> float:
        """The share of characters in the most frequent n-gram, 0 if none comes twice."""
        hashes = self._hashes(n)
        if not len(hashes):
            return 0.0
        _, first, counts = np.unique(hashes, return_index=True, return_counts=True)
        lengths = self._ends[first + n] - self._ends[first]
        covered = np.where(counts > 1, counts * lengths, 0)
        most = counts == counts.max()
        return min(int(covered[most].max()) / self.total, 1.0)

    def duplicate_share(self, n: int) -> float:
        """The share of characters in n-grams that were there before, each character once.

        It never grows with n: what repeats a long phrase repeats the short ones in it.
        """
        hashes = self._hashes(n)
        if not len(hashes):
            return 0.0
        _, first = np.unique(hashes, return_index=True)
        again = np.ones(len(hashes), dtype=bool)
        again[first] = False
        steps = np.zeros(len(self._ids) + 1, dtype=np.int64)
        np.add.at(steps, np.flatnonzero(again), 1)
        np.add.at(steps, np.flatnonzero(again) + n, -1)
        inside = np.cumsum(steps[:-1]) > 0
        return int(np.diff(self._ends)[inside].sum()) / self.total

    def _hashes(self, n: int) -> NDArray[np.uint64]:
        """A hash of each n-gram; two of some thousands are equal by chance once in 10**12 texts."""
        size = len(self._ids) - n + 1
        if size < 1:
            return np.zeros(0, dtype=np.uint64)
        hashes = np.zeros(size, dtype=np.uint64)
        for at in range(n):
            hashes = (hashes ^ self._ids[at : at + size]) * _PRIME
            hashes ^= hashes >> np.uint64(29)
        return hashes
