"""Several sources of windows as one, in given shares.

Sample `i` lies in block ``i // 4,096``. Each block holds the same number of samples of each
source, in an order drawn from the seed and the number of the block; so the shares are exact after
every block, and which window of its source a sample is follows by counting within one block. Each
source is gone through in an order of its own, again and again, in another order each time. That
order is computed entry by entry: eight rounds of a Feistel network over the next even number
of bits, applied again where it leaves the range (cycle walking; Black and Rogaway 2002, "Ciphers
with arbitrary finite domains"). Held are the blocks last asked for, 8 MB at most, and nothing that
grows with the sources.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.samples import random_stream
from regrow.corpus.windows import TextWindows
from regrow.errors import UserError

BLOCK = 1 << 12
"""Samples after which the shares are exact."""

_ROUNDS = 8


@dataclass(frozen=True, eq=False)
class Mixture:
    """Windows of several sources: window `i` is sample `i`, a pure function of seed and `i`.

    Attributes:
        sources: By name; the order and the names are part of what is drawn.
        quotas: Samples of each source in a block; they sum to `BLOCK`.
        samples: In all.
        seed: Decides the order.
    """

    sources: Mapping[str, TextWindows]
    quotas: Mapping[str, int]
    samples: int
    seed: int

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a sample."""
        source, window = self.place(number)
        return self.sources[source][window]

    @property
    def longest(self) -> int:
        """Bound on the tokens in a sample."""
        return max(source.longest for source in self.sources.values())

    def place(self, number: int) -> tuple[str, int]:
        """The source of a sample and the window of that source."""
        if not 0 <= number < self.samples:
            raise IndexError(f"sample {number} of {self.samples}")
        block, entry = divmod(number, BLOCK)
        order, ranks = _block(self.seed, tuple(self.quotas[name] for name in self.sources), block)
        name = list(self.sources)[order[entry]]
        windows = len(self.sources[name])
        epoch, rank = divmod(block * self.quotas[name] + int(ranks[entry]), windows)
        return name, shuffled(rank, windows, self.seed, name, epoch)

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these samples."""
        places = [self.place(number) for number in numbers.tolist()]
        found = [self.sources[name].lengths_of(np.array([window])) for name, window in places]
        return np.concatenate([*found, np.empty(0, dtype=np.int64)])

    @cached_property
    def identity(self) -> str:
        """A hash of all that decides the samples."""
        parts = [(name, self.quotas[name], s.identity) for name, s in self.sources.items()]
        return hashlib.sha256(f"mixture {self.seed} {self.samples} {parts}".encode()).hexdigest()


def mix_by_weight(
    sources: Mapping[str, TextWindows], weights: Mapping[str, float], samples: int, seed: int
) -> Mixture:
    """A mixture of so many samples, in shares that go as the weights.

    Shares are rounded to 1 in `BLOCK`. Raises UserError at a weight that is not positive or rounds
    to nothing, and at names that do not agree.
    """
    if set(sources) != set(weights) or not sources:
        raise UserError(
            f"weights for {', '.join(weights) or 'nothing'}, "
            f"sources {', '.join(sources) or 'none'}; give one for each source"
        )
    for name, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise UserError(f"weight of {name}: {weight:g}; a number above 0 is wanted")
    total = sum(weights.values())
    exact = {name: weights[name] / total * BLOCK for name in sources}
    quotas = {name: int(share) for name, share in exact.items()}
    # The largest remainders are rounded up.
    by_remainder = sorted(sources, key=lambda name: quotas[name] - exact[name])
    for name in by_remainder[: BLOCK - sum(quotas.values())]:
        quotas[name] += 1
    for name, quota in quotas.items():
        if quota == 0:
            raise UserError(
                f"weight of {name}: {weights[name]:g} of {total:g} is less than 1 sample in "
                f"{BLOCK:,}; leave it out or give it more"
            )
    return Mixture(sources, quotas, samples, seed)


def mix_by_tokens(
    sources: Mapping[str, TextWindows],
    tokens: Mapping[str, int],
    lengths: Mapping[str, float],
    seed: int,
) -> Mixture:
    """A mixture that takes so many tokens from each source in all.

    `lengths`: mean tokens of a window of each source. A source with fewer tokens than are wanted of
    it is gone through more than once.
    """
    windows = {name: tokens[name] / lengths[name] for name in tokens}
    return mix_by_weight(sources, windows, max(1, round(sum(windows.values()))), seed)


@lru_cache(maxsize=256)
def _block(
    seed: int, quotas: tuple[int, ...], block: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Source of each sample of a block, and how many of that source come before it there."""
    kinds = np.repeat(np.arange(len(quotas), dtype=np.int32), quotas)
    keys = random_stream(seed, "mixture", block).random_raw(BLOCK)
    order = kinds[np.argsort(keys, kind="stable")]
    ranks = np.empty(BLOCK, dtype=np.int32)
    for kind, quota in enumerate(quotas):
        ranks[order == kind] = np.arange(quota)
    return order, ranks


def shuffled(rank: int, count: int, seed: int, name: str, epoch: int) -> int:
    """Entry `rank` of a permutation of 0 to `count - 1` that is never written out.

    A pure function of its arguments.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask = (1 << half) - 1
    keys = _keys(seed, name, epoch)
    value = rank
    while True:
        left, right = value >> half, value & mask
        for key in keys:
            left, right = right, left ^ (_scrambled(right ^ key) >> (64 - half))
        value = left << half | right
        if value < count:
            return value


@lru_cache(maxsize=256)
def _keys(seed: int, name: str, epoch: int) -> tuple[int, ...]:
    raw = random_stream(seed, f"order of {name}", epoch).random_raw(_ROUNDS)
    return tuple(raw.tolist())


_ALL = (1 << 64) - 1


def _scrambled(value: int) -> int:
    """SplitMix64's finaliser (Steele et al. 2014): each bit of 64 depends on all."""
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 & _ALL
    value = (value ^ value >> 27) * 0x94D049BB133111EB & _ALL
    return value ^ value >> 31
