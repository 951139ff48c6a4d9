"""Which steps are not taken: those that would carry a broken batch into the weights."""

import math
import statistics
from collections.abc import Sequence

RECENT = 32
"""Steps that a new one is compared with."""
_ENOUGH = 8


def fault(
    loss: float, norm: float, recent: Sequence[tuple[float, float]], factor: float
) -> str | None:
    """What is wrong with a step, in words; None where it may be taken.

    A step is broken where its loss or its gradient is not finite, or where one of them is more
    than `factor` times the median of the recent ones, of which there must be some.

    `recent`: loss and gradient norm of the last steps taken, at most `RECENT`.
    """
    if not (math.isfinite(loss) and math.isfinite(norm)):
        return "the loss is not finite" if not math.isfinite(loss) else "the gradient is not finite"
    if len(recent) < _ENOUGH:
        return None
    medians = [statistics.median(values) for values in zip(*recent, strict=True)]
    for name, value, median in zip(("loss", "gradient norm"), (loss, norm), medians, strict=True):
        if value > factor * median:
            return f"the {name} is {value:.3g}, where {median:.3g} was usual"
    return None
