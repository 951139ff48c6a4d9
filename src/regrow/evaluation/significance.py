"""Whether two models differ on the same questions, beyond chance."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLES = 10_000
_SEED = 0
_NO_SUM = 0.001
"""The most draws in which a share has no sum to be a share of, as a part of all draws."""


@dataclass(frozen=True)
class PairedTest:
    """Two models on the same questions.

    Attributes:
        questions: How many questions there are.
        difference: The mean of the second model minus that of the first.
        low, high: The 95% confidence interval of the difference, by the paired bootstrap: the
            questions are drawn anew, and each brings the marks of both models.
        only_first, only_second: Questions that only one of the models answers right; None if marks
            are not 0 or 1.
        p_value: How likely so uneven numbers are if both models were equally good, by McNemar's
            exact test, two-sided; None if marks are not 0 or 1.
    """

    questions: int
    difference: float
    low: float
    high: float
    only_first: int | None
    only_second: int | None
    p_value: float | None

    @property
    def is_significant(self) -> bool:
        """Whether the models differ at the level of 5%."""
        if self.p_value is not None:
            return self.p_value < 0.05
        return self.low > 0 or self.high < 0


def paired_test(first: Sequence[float], second: Sequence[float]) -> PairedTest:
    """Compare the marks of two models on the same questions, in the same order; at least one."""
    before, after = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    differences = after - before
    low, high = _interval(differences)
    counts: tuple[int, int] | None = None
    if np.isin([before, after], (0.0, 1.0)).all():
        counts = (int((differences < 0).sum()), int((differences > 0).sum()))
    return PairedTest(
        questions=len(differences),
        difference=float(differences.mean()),
        low=low,
        high=high,
        only_first=None if counts is None else counts[0],
        only_second=None if counts is None else counts[1],
        p_value=None if counts is None else mcnemar(*counts),
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """The p-value of McNemar's exact test (1947), two-sided.

    Of the questions that one of two models alone answers right, each is equally likely to be of
    either model if they are equally good.
    """
    count, fewer = only_first + only_second, min(only_first, only_second)
    tail = below = 1  # the binomial coefficients of `count` over 0 to `fewer`
    for number in range(1, fewer + 1):
        below = below * (count - number + 1) // number
        tail += below
    return min(1.0, 2 * _ratio(tail, count))


def _ratio(value: int, power: int) -> float:
    """value / 2**power, also where both are too large for a float."""
    shift = max(0, value.bit_length() - 64)
    return math.ldexp(value >> shift, shift - power)


@dataclass(frozen=True)
class AnsweredPart:
    """The questions of a task, as a part of a share.

    Attributes:
        first, second: The marks of both models, in the same order; at least one.
        of_first, of_second: What each model adds to the two sums of which the share is the ratio.
            In a draw of questions, each changes by as much as the mean of its model's marks.
    """

    first: Sequence[float]
    second: Sequence[float]
    of_first: float
    of_second: float


def interval_of_share(parts: Iterable[AnsweredPart]) -> tuple[float, float] | None:
    """The 95% interval of the sum of `of_second` over that of `of_first`, by the paired bootstrap.

    The questions of each part are drawn anew. None if more than a thousandth of the draws give the
    first model no sum above 0, since the share then has no bounds to speak of, or if all draws give
    one share, since so few or such equal answers do not tell how sure it is.
    """
    generator = np.random.default_rng(_SEED)
    whole, kept = np.zeros(_RESAMPLES), np.zeros(_RESAMPLES)
    for part in parts:
        marks = np.asarray([part.first, part.second], dtype=float)
        values, counts = np.unique(marks, axis=1, return_counts=True)
        size = marks.shape[1]
        drawn = generator.multinomial(size, counts / size, size=_RESAMPLES) / size
        moved = drawn @ values.T - marks.mean(axis=1)
        whole += part.of_first + moved[:, 0]
        kept += part.of_second + moved[:, 1]
    if (whole <= 0).mean() > _NO_SUM:
        return None
    low, high = np.percentile(kept[whole > 0] / whole[whole > 0], (2.5, 97.5))
    return (float(low), float(high)) if low < high else None


def _interval(differences: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, float]:
    """The 95% interval of the mean, by the percentiles of resampled means."""
    values, counts = np.unique(differences, return_counts=True)
    size = len(differences)
    drawn = np.random.default_rng(_SEED).multinomial(size, counts / size, size=_RESAMPLES)
    low, high = np.percentile(drawn @ values / size, (2.5, 97.5))
    return float(low), float(high)
