"""Which samples of an optimiser step go through the model together, so that few slots are empty.

Samples are of different lengths, and those of an encoder-decoder in two ways: source and target. A
pass computes the longest of either for all of its samples. How a step is taken apart changes
neither what is learned in it nor, but for rounding, the result.
"""

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.samples import Samples, slots_of

Ids = NDArray[np.int64]

_COST = 512
"""Slots that a pass costs beside those that it computes."""
_SHARES = 12
"""Kinds of samples that are told apart by the part of the source in them."""


def passes(samples: Samples, rows: Ids, numbers: Ids, at_once: int) -> list[Ids]:
    """Places among these samples, pass by pass, the largest pass first.

    Each sample is in one pass, and no pass has more than `at_once`.
    """
    slots = slots_of(samples, rows, numbers)
    if (slots == slots[0]).all():
        return np.split(np.arange(len(rows)), range(at_once, len(rows), at_once))
    total = slots.sum(axis=1)
    share = np.rint(_SHARES * slots[:, 0] / np.maximum(total, 1))
    order = np.lexsort((-total, share))
    parts = [order[first:stop] for first, stop in cheapest_parts(slots[order], at_once)]
    return sorted(parts, key=lambda part: -int(len(part) * slots[part].max(axis=0).sum()))


def cheapest_parts(slots: Ids, at_once: int, cost: int = _COST) -> list[tuple[int, int]]:
    """A line of samples [samples, arrays] cut into parts of at most `at_once`; (first, stop) each.

    No other cuts cost less, where a part costs what its longest slots would for all of it, and
    `cost`.
    """
    count = len(slots)
    at_once = min(at_once, count)
    # By how many samples are in a part, and where it stops.
    costs = np.empty((at_once, count), dtype=np.int64)
    longest = slots.copy()
    for more in range(at_once):
        longest[more:] = np.maximum(longest[more:], slots[: count - more])
        costs[more] = (more + 1) * longest.sum(axis=1) + cost
    by_stop = costs.T.tolist()
    least = [0]
    sizes = [0]
    for stop, each in enumerate(by_stop, start=1):
        found = [least[stop - size - 1] + each[size] for size in range(min(at_once, stop))]
        least.append(min(found))
        sizes.append(1 + found.index(least[-1]))
    parts = []
    stop = count
    while stop:
        parts.append((stop - sizes[stop], stop))
        stop -= sizes[stop]
    return parts[::-1]
