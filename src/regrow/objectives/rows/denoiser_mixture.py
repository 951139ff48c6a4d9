"""Which denoiser each sample is corrupted by, in shares that can change while training goes on."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from regrow.objectives.rows.random_segmentation import Ids, random_bits, sample_keys


@dataclass(frozen=True)
class MixtureHistory:
    """The share of each denoiser, from which sample on.

    Immutable, and a pure function of the sample: what was drawn for a sample stays, whatever is
    added after it. To save it, save `changes`, which are lists and numbers.

    Attributes:
        changes: (first sample, shares [denoisers]) ascending, the first at sample 0. Shares are at
            least 0 and sum to 1.
    """

    changes: tuple[tuple[int, tuple[float, ...]], ...]

    @classmethod
    def constant(cls, weights: Sequence[float]) -> Self:
        """The same shares for all samples, in proportion to the weights."""
        return cls(((0, _shares(weights)),))

    def changed(self, first: int, weights: Sequence[float]) -> "MixtureHistory":
        """With other shares from sample `first` on; the same shares again add nothing.

        Raises ValueError where `first` lies before the last change, or the weights are no weights.
        """
        last, current = self.changes[-1]
        shares = _shares(weights)
        if len(shares) != len(current):
            raise ValueError(f"{len(shares)} weights, {len(current)} denoisers")
        if first < last:
            raise ValueError(f"a change at sample {first}, after the one at sample {last}")
        if shares == current:
            return self
        kept = self.changes if first > last else self.changes[:-1]
        return MixtureHistory((*kept, (first, shares)))

    @property
    def current(self) -> tuple[float, ...]:
        """The shares since the last change."""
        return self.changes[-1][1]

    def draw(self, seed: int, samples: Ids) -> Ids:
        """The number of each sample's denoiser, [samples]."""
        firsts, bounds = self._tables
        entries = np.searchsorted(firsts, samples, side="right") - 1
        keys = sample_keys(seed, "denoiser", samples)
        # 53 bits, as many as a float64 between 0 and 1 holds.
        drawn = (random_bits(keys, np.zeros_like(samples)) >> np.uint64(11)) * 2.0**-53
        numbers: Ids = (drawn[:, None] >= bounds[entries]).sum(axis=1)
        return numbers

    @cached_property
    def _tables(self) -> tuple[Ids, NDArray[np.float64]]:
        """First samples, and where in 0 to 1 each denoiser but the last possible ends."""
        firsts = np.array([first for first, _ in self.changes], dtype=np.int64)
        shares = np.array([shares for _, shares in self.changes])
        bounds = np.cumsum(shares, axis=1)
        # Sums of shares are 1 but for rounding; past the last that has any, nothing is drawn.
        bounds[bounds >= bounds[:, -1:]] = math.inf
        return firsts, bounds


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < total < math.inf):
        raise ValueError(f"weights {list(weights)}: each at least 0, and together above 0")
    return tuple(weight / total for weight in weights)
