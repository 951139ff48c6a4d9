"""The cost of an axis at all its sizes, from what was measured at a few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class CostCurve:
    """How much more loss an axis costs the less of it is kept.

    Between the measured shares it is a monotone piecewise cubic (Fritsch and Carlson 1980,
    "Monotone piecewise cubic interpolation"), so it has no bumps that were not measured.

    Attributes:
        shares: Ascending, the last is 1, [points].
        costs: Falling, the last is 0, [points].
    """

    shares: Floats
    costs: Floats

    def at(self, shares: Floats) -> Floats:
        """The cost at shares that are not below the smallest measured one."""
        x, y = self.shares, self.costs
        if len(x) == 1:
            return np.zeros_like(shares)
        width, slope = np.diff(x), np.diff(y) / np.diff(x)
        tangent = _tangents(width, slope)
        at = np.clip(np.searchsorted(x, shares, side="right") - 1, 0, len(width) - 1)
        t = (shares - x[at]) / width[at]
        return np.asarray(
            y[at] * (1 + 2 * t) * (1 - t) ** 2
            + y[at + 1] * t**2 * (3 - 2 * t)
            + width[at] * t * (1 - t) * (tangent[at] * (1 - t) - tangent[at + 1] * t),
            dtype=np.float64,
        )


def cost_curve(shares: Sequence[float], costs: Sequence[float]) -> CostCurve:
    """The curve through measured costs of shares below 1.

    A smaller size never costs less than a larger one: where less loss was measured, the curve is
    flat. A cut that lowers the loss costs nothing.
    """
    order = np.argsort(shares)[::-1]
    falling = np.maximum.accumulate([0.0, *np.asarray(costs, dtype=np.float64)[order]])
    x = np.array([1.0, *np.asarray(shares, dtype=np.float64)[order]])
    return CostCurve(x[::-1], falling[::-1])


def _tangents(width: Floats, slope: Floats) -> Floats:
    """Slopes at the points: weighted harmonic means of those beside, and 0 beside a flat part."""
    if len(slope) == 1:
        return np.array([slope[0], slope[0]])
    left, right = slope[:-1], slope[1:]
    first, second = 2 * width[1:] + width[:-1], width[1:] + 2 * width[:-1]
    product = left * right
    safe = np.where(product > 0, product, 1.0)
    inner = np.where(
        product > 0, (first + second) * safe / (first * right + second * left + (product <= 0)), 0
    )
    return np.concatenate(
        [
            [_end(width[0], width[1], slope[0], slope[1])],
            inner,
            [_end(width[-1], width[-2], slope[-1], slope[-2])],
        ]
    )


def _end(width: float, next_width: float, slope: float, next_slope: float) -> float:
    """The slope at an end, from three points, limited so that the curve stays monotone."""
    tangent = ((2 * width + next_width) * slope - width * next_slope) / (width + next_width)
    if tangent * slope <= 0:
        return 0.0
    limit = 3 * slope
    return limit if slope * next_slope <= 0 and abs(tangent) > abs(limit) else tangent
