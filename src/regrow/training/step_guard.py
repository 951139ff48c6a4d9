"""Decide which steps to skip, so that a broken batch does not damage the weights."""

import math
import statistics
from collections.abc import Sequence

RECENT = 32
"""How many earlier steps a new step is compared with."""
_MIN_RECENT = 8
"""With fewer earlier steps, only finiteness is checked."""


def skip_reason(
    loss: float, norm: float, recent: Sequence[tuple[float, float]], factor: float
) -> str | None:
    """Why to skip a step, in words; None to take it.

    A step is skipped if its loss or its gradient norm is not finite, or is more than `factor` times
    the median of the recent ones.

    `recent`: loss and gradient norm of the last steps that were taken, at most `RECENT`.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return "the loss is not finite" if not math.isfinite(loss) else "the gradient is not finite"
    if len(recent) < _MIN_RECENT:
        return None
    medians = [statistics.median(values) for values in zip(*recent, strict=True)]
    for name, value, median in zip(("loss", "gradient norm"), (loss, norm), medians, strict=True):
        if value > factor * median:
            return f"the {name} is {value:.3g}, where {median:.3g} was usual"
    return None
