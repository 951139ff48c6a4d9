"""The order of rows of several sources in given shares.

Rows are numbered through all sources, one source after another. Samples come in blocks of 4,096,
counted from the last change of shares. Every block holds the same number of samples of each source,
in an order drawn from the seed and the number of the block. So the shares are exact after every
block, and counting within one block gives the row of a sample within its source. The rows of each
source are shuffled for themselves, anew in each epoch of that source.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.random_stream import random_stream
from regrow.corpus.samples import DataOrder
from regrow.corpus.shares import Shares

BLOCK = 1 << 12
"""Samples after which the shares are exact."""

Quotas = tuple[int, ...]
"""Samples of each source in a block; they sum to `BLOCK`."""


def source_shares(names: Sequence[str], weights: Sequence[float]) -> Shares[int]:
    """The samples of each source in a block, in proportion to the weights.

    Raises UserError if a weight is not positive, or gives less than 1 sample in a block.
    """
    for name, weight in zip(names, weights, strict=True):
        if not 0 < weight < float("inf"):
            raise UserError(f"weight of {name}: {weight:g}; a number above 0 is wanted")
    shares = Shares(names, weights, _quotas)
    for name, weight, quota in zip(names, weights, shares.first, strict=True):
        if quota == 0:
            raise UserError(
                f"{name}: {weight / sum(weights):.2g} of all is less than 1 sample in "
                f"{BLOCK:,}; leave it out or give it more"
            )
    return shares


class MixedOrder:
    """An `Order` with rows of each source in its share.

    `sizes`: rows of each source. `shares`: as from `source_shares`; they may be changed while the
    order is in use.
    """

    def __init__(self, sizes: Sequence[int], shares: Shares[int], seed: int) -> None:
        self._shares = shares
        self._seed = seed
        self._sources = [
            (first, DataOrder(seed, size, f"order of {name}"))
            for first, size, name in zip(
                accumulate(sizes, initial=0), sizes, shares.names, strict=False
            )
        ]
        self._known = [np.zeros(len(sizes), dtype=np.int64)]

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows of samples ``start`` to ``stop - 1``, counted through all sources."""
        found = np.empty(stop - start, dtype=np.int64)
        for first, last, sources, before in self._pieces(start, stop):
            piece = found[first - start : last - start]
            for number, (origin, order) in enumerate(self._sources):
                places = np.flatnonzero(sources == number)
                if len(places):
                    rank = before[number]
                    piece[places] = origin + order.rows(rank, rank + len(places))
        return found

    def _pieces(
        self, start: int, stop: int
    ) -> Iterator[tuple[int, int, NDArray[np.int32], list[int]]]:
        """Parts within one block: first sample, stop, the source of each sample, and the samples of
        each source before the part."""
        changes = self._shares.changes
        ends = [first for first, _ in changes[1:]] + [max(stop, changes[-1][0])]
        for number, ((origin, quotas), end) in enumerate(zip(changes, ends, strict=True)):
            if origin >= stop or end <= start:
                continue
            block = (max(start, origin) - origin) // BLOCK
            while (at := origin + block * BLOCK) < min(stop, end):
                first, last = max(start, at), min(stop, end, at + BLOCK)
                sources = _block(self._seed, origin, quotas, block)
                earlier = self._before(number) + self._within(number, first)
                yield first, last, sources[first - at : last - at], earlier.tolist()
                block += 1

    def _before(self, number: int) -> NDArray[np.int64]:
        """Samples of each source before a change of shares."""
        changes = self._shares.changes
        for known in range(len(self._known), number + 1):
            after = self._within(known - 1, changes[known][0])
            self._known.append(self._known[-1] + after)
        return self._known[number]

    def _within(self, number: int, sample: int) -> NDArray[np.int64]:
        """Samples of each source between a change of shares and a sample."""
        origin, quotas = self._shares.changes[number]
        block, rest = divmod(sample - origin, BLOCK)
        counts = block * np.array(quotas, dtype=np.int64)
        if rest:
            sources = _block(self._seed, origin, quotas, block)[:rest]
            counts += np.bincount(sources, minlength=len(quotas))
        return counts


def _quotas(weights: Sequence[float]) -> Quotas:
    """Weights are rounded to 1 in `BLOCK`."""
    exact = np.array(weights, dtype=np.float64) / sum(weights) * BLOCK
    quotas = exact.astype(np.int64)
    # The largest remainders are rounded up.
    by_remainder = np.argsort(quotas - exact, kind="stable")
    quotas[by_remainder[: BLOCK - int(quotas.sum())]] += 1
    return tuple(quotas.tolist())


@lru_cache(maxsize=64)
def _block(seed: int, origin: int, quotas: Quotas, block: int) -> NDArray[np.int32]:
    """The source of each sample of a block; the blocks are counted from sample `origin` on."""
    sources = np.repeat(np.arange(len(quotas), dtype=np.int32), quotas)
    keys = random_stream(seed, f"mixture from {origin}", block).random_raw(BLOCK)
    return sources[np.argsort(keys, kind="stable")]
