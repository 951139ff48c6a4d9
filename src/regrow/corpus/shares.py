"""The shares of a mixture in the samples of a training, and the samples at which they change.

Importing this module imports neither PyTorch nor NumPy.
"""

import math
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

DENOISER, DOMAIN = "denoiser", "domain"
"""The kinds of mixtures: of denoisers, and of sources of text."""

N = TypeVar("N", int, float)


class Shares(Generic[N]):
    """The share of each component in the samples; it can change at a sample.

    What is drawn for a sample depends only on the changes up to it, so a later change does not
    affect earlier samples.

    Attributes:
        names: Of the components, in order.
        changes: (first sample, share of each component) in ascending order, the first at sample 0.
    """

    def __init__(
        self,
        names: Sequence[str],
        weights: Sequence[float],
        in_proportion: Callable[[Sequence[float]], tuple[N, ...]],
    ) -> None:
        """Shares from sample 0 on.

        `weights`: as in `mix_from`. `in_proportion`: the shares in proportion to weights.
        """
        self.names = tuple(names)
        self.changes: list[tuple[int, tuple[N, ...]]] = []
        self._in_proportion: Callable[[Sequence[float]], tuple[N, ...]] = in_proportion
        self.mix_from(0, weights)

    @property
    def first(self) -> tuple[N, ...]:
        """The shares of the first samples."""
        return self.changes[0][1]

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """Change the shares from this sample on, which must not have been drawn before.

        `weights`: one for each component, in order. 0 leaves a component out.

        Raises ValueError if the sample is before the last change, or the weights are not weights.
        """
        if (
            len(weights) != len(self.names)
            or not all(weight >= 0 for weight in weights)
            or not 0 < math.fsum(weights) < math.inf
        ):
            raise ValueError(f"weights {list(weights)} of {', '.join(self.names)}")
        if self.changes:
            last, _ = self.changes[-1]
            if sample < last:
                raise ValueError(f"a change at sample {sample}, after the one at sample {last}")
            if sample == last:
                self.changes.pop()
        self.changes.append((sample, self._in_proportion(weights)))


def fractions(weights: Sequence[float]) -> tuple[float, ...]:
    """Shares in proportion to weights that sum to 1."""
    total = math.fsum(weights)
    return tuple(weight / total for weight in weights)
