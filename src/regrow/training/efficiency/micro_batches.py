"""Group the samples of an optimiser step into micro-batches with few empty slots.

Samples differ in length; those of an encoder-decoder have two lengths, of source and target. A
micro-batch pads each of the two to the longest among its samples. The grouping does not change what
is learned in a step; it changes the result only by rounding.
"""

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.samples import Samples, slots_of

Ids = NDArray[np.int64]

_FIXED_COST = 512
"""Cost of one micro-batch in slots, beside the slots that it computes."""
_SOURCE_SHARE_BINS = 12
"""Samples are first sorted into this many bins, by the share of the source in their slots."""


def split_into_micro_batches(samples: Samples, rows: Ids, numbers: Ids, max_size: int) -> list[Ids]:
    """Indices into `rows` for each micro-batch, the largest micro-batch first.

    Each sample is in exactly one micro-batch, and no micro-batch has more than `max_size` samples.
    """
    slots = slots_of(samples, rows, numbers)
    if (slots == slots[0]).all():
        return np.split(np.arange(len(rows)), range(max_size, len(rows), max_size))
    total = slots.sum(axis=1)
    share = np.rint(_SOURCE_SHARE_BINS * slots[:, 0] / np.maximum(total, 1))
    order = np.lexsort((-total, share))
    parts = [order[first:stop] for first, stop in cheapest_partition(slots[order], max_size)]
    return sorted(parts, key=lambda part: -int(len(part) * slots[part].max(axis=0).sum()))


def cheapest_partition(
    slots: Ids, max_size: int, fixed_cost: int = _FIXED_COST
) -> list[tuple[int, int]]:
    """Cut a sequence of samples into parts of least total cost; (first, stop) of each part.

    A part has at most `max_size` samples. Its cost is its padded slots plus `fixed_cost`. Found by
    dynamic programming.

    `slots`: lengths of each sample, [samples, arrays]; a part is padded in each array apart.
    """
    count = len(slots)
    max_size = min(max_size, count)
    # costs[size - 1, last]: of the part of this size that ends with this sample.
    costs = np.empty((max_size, count), dtype=np.int64)
    longest = slots.copy()
    for more in range(max_size):
        longest[more:] = np.maximum(longest[more:], slots[: count - more])
        costs[more] = (more + 1) * longest.sum(axis=1) + fixed_cost
    costs_by_last = costs.T.tolist()
    least = [0]
    sizes = [0]
    for stop, part_costs in enumerate(costs_by_last, start=1):
        found = [least[stop - size - 1] + part_costs[size] for size in range(min(max_size, stop))]
        least.append(min(found))
        sizes.append(1 + found.index(least[-1]))
    parts = []
    stop = count
    while stop:
        parts.append((stop - sizes[stop], stop))
        stop -= sizes[stop]
    return parts[::-1]
