"""Which denoiser corrupts each sample. The shares of the denoisers can change during training."""

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
    """The shares of the denoisers, and the samples at which the shares changed.

    It is immutable. The denoiser of a sample depends only on the seed, the number of the sample and
    the changes up to it, so a later change does not affect earlier samples. To save a history, save
    `changes`, which holds only tuples and numbers.

    Attributes:
        changes: (first sample, shares [denoisers]) in ascending order, the first at sample 0.
            Shares are at least 0 and sum to 1.
    """

    changes: tuple[tuple[int, tuple[float, ...]], ...]

    @classmethod
    def constant(cls, weights: Sequence[float]) -> Self:
        """The same shares for all samples, in proportion to the weights."""
        return cls(((0, _shares(weights)),))

    def changed(self, first: int, weights: Sequence[float]) -> "MixtureHistory":
        """The history with new shares from sample `first` on, in proportion to the weights.

        If the shares stay the same, no change is added.
        Raises ValueError if `first` lies before the last change, or if there are not as many
        weights as denoisers, a weight is negative, or the weights do not have a positive sum.
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
        """The index of each sample's denoiser, [samples]."""
        firsts, bounds = self._tables
        entries = np.searchsorted(firsts, samples, side="right") - 1
        keys = sample_keys(seed, "denoiser", samples)
        # 53 bits, the precision of a float64 between 0 and 1.
        drawn = (random_bits(keys, np.zeros_like(samples)) >> np.uint64(11)) * 2.0**-53
        numbers: Ids = (drawn[:, None] >= bounds[entries]).sum(axis=1)
        return numbers

    @cached_property
    def _tables(self) -> tuple[Ids, NDArray[np.float64]]:
        """First samples, [changes], and cumulative shares by denoiser, [changes, denoisers]."""
        firsts = np.array([first for first, _ in self.changes], dtype=np.int64)
        shares = np.array([shares for _, shares in self.changes])
        bounds = np.cumsum(shares, axis=1)
        # The sum of the shares is 1 except for rounding. The last denoiser with a share takes what
        # is left, so that denoisers after it, with share 0, are never drawn.
        bounds[bounds >= bounds[:, -1:]] = math.inf
        return firsts, bounds


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    if not (all(weight >= 0 for weight in weights) and 0 < total < math.inf):
        raise ValueError(f"weights {list(weights)}: each at least 0, and together above 0")
    return tuple(weight / total for weight in weights)
