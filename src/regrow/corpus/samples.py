"""What a training loop needs from its data, and the order in which it reads samples."""

from collections.abc import Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from regrow.common.random_stream import random_stream

Batch = dict[str, NDArray[Any]]
"""Arrays by name, whose first dimension is the sample; the objective defines the names."""


class Samples(Protocol):
    """A fixed set of rows of text. Sample ``i`` of a training is the same in every process."""

    @property
    def row_length(self) -> int:
        """The most text tokens that a row may have."""

    def __len__(self) -> int: ...

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Text tokens in each of these rows."""

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """These rows as one batch.

        `samples`: the number of each row's sample in the whole training. What is drawn at random
        for a sample depends on its number alone.
        """

    @property
    def identity(self) -> str:
        """A hash of everything that decides what the samples hold."""


class Order(Protocol):
    """The row of each sample: a pure function of the number of the sample."""

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows of samples ``start`` to ``stop - 1``."""


@runtime_checkable
class Ordered(Protocol):
    """Rows that define their own order, such as those of a mixture."""

    def order(self, seed: int) -> Order: ...


@runtime_checkable
class Slotted(Protocol):
    """Samples whose slots in a batch are not as many as their text tokens."""

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots that each of these samples fills, [samples, arrays].

        The arrays are those that a batch pads on their own: sources and targets, or rows.
        """


@dataclass(frozen=True, eq=False)
class Components:
    """Which component of a mixture each sample is from; the components are denoisers or domains.

    Attributes:
        names: The names of the components.
        indices: The index of each sample's component in `names`, [samples]. Where a sample holds
            several examples, there is one index for each example, [samples * examples].
    """

    names: tuple[str, ...]
    indices: NDArray[np.int64]


@runtime_checkable
class HasComponents(Protocol):
    """Rows drawn from a mixture, so that their losses can be reported by component."""

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The component of each sample, for each kind of mixture
        (`regrow.corpus.shares`)."""


def components_of(
    rows_of_text: object, rows: NDArray[np.int64], samples: NDArray[np.int64]
) -> dict[str, Components]:
    """The components of these rows, read as samples with these numbers, by kind of mixture.

    Empty if the rows are not drawn from a mixture.
    """
    return rows_of_text.components(rows, samples) if isinstance(rows_of_text, HasComponents) else {}


class MixedSamples(Protocol):
    """Samples that are drawn from the components of a mixture in shares that can be changed."""

    @property
    def names(self) -> tuple[str, ...]:
        """The components, in order."""

    @property
    def first(self) -> tuple[float, ...]:
        """The shares of the first samples, in any unit; one for each component."""

    def mix_from(self, sample: int, weights: Sequence[float]) -> None:
        """Draw by these weights from this sample on, which must not have been drawn before."""


@runtime_checkable
class HasMixtures(Protocol):
    """Rows drawn from mixtures whose shares can change while a training runs."""

    def mixed(self, kind: str) -> MixedSamples | None:
        """The samples as drawn from the mixture of this kind; None if there is no such mixture.

        `kind`: as in `regrow.corpus.shares`.
        """


def mixed_samples(rows_of_text: object, kind: str) -> MixedSamples | None:
    """The samples as drawn from the mixture of this kind; None if there is no such mixture."""
    return rows_of_text.mixed(kind) if isinstance(rows_of_text, HasMixtures) else None


def slots_of(
    samples: Samples, rows: NDArray[np.int64], numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Slots that each of these samples fills, [samples, arrays]; see `Slotted`."""
    if isinstance(samples, Slotted):
        return samples.slots(rows, numbers)
    return samples.lengths(rows)[:, None]


def data_order(rows: Sized, seed: int) -> Order:
    """The order of rows: their own if they define one, else one shuffled epoch after another."""
    return rows.order(seed) if isinstance(rows, Ordered) else DataOrder(seed, len(rows))


_MOST_IN_MEMORY = 1 << 20
"""Up to so many rows a permutation is held in memory, 8 bytes each."""


class DataOrder:
    """An `Order` in which every row comes once in each epoch.

    Sample ``i`` is entry ``i % rows`` of the permutation of epoch ``i // rows``. `purpose`: gives
    different orders for the same seed.
    """

    def __init__(self, seed: int, rows: int, purpose: str = "data order") -> None:
        self._seed = seed
        self._rows = rows
        self._purpose = purpose
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)
        self._keys: Sequence[int] = ()

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows of samples ``start`` to ``stop - 1``."""
        found = np.empty(stop - start, dtype=np.int64)
        index = start
        while index < stop:
            epoch, entry = divmod(index, self._rows)
            count = min(self._rows - entry, stop - index)
            found[index - start : index - start + count] = self._of(epoch, entry, count)
            index += count
        return found

    def _of(self, epoch: int, entry: int, count: int) -> NDArray[np.int64]:
        written_out = self._rows <= _MOST_IN_MEMORY
        if epoch != self._epoch:
            stream = random_stream(self._seed, self._purpose, epoch)
            if written_out:
                # Sorting raw bits: unlike Generator.permutation, the same in every numpy.
                keys = stream.random_raw(self._rows)
                self._permutation = np.argsort(keys, kind="stable").astype(np.int64)
            else:
                self._keys = stream.random_raw(_ROUNDS).tolist()
            self._epoch = epoch
        if written_out:
            return self._permutation[entry : entry + count]
        return shuffled(np.arange(entry, entry + count), self._rows, self._keys)


_ROUNDS = 8


def shuffled(entries: NDArray[np.int64], count: int, keys: Sequence[int]) -> NDArray[np.int64]:
    """These entries of a random permutation of 0 to ``count - 1``, without computing the others.

    A Feistel network over the next even number of bits. A value outside the range is permuted again
    (cycle walking; Black and Rogaway 2002, "Ciphers with arbitrary finite domains"). A pure
    function of its arguments. `keys`: 64 random bits for each round.
    """
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    values = _feistel(entries.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(values >= count)):
        values[outside] = _feistel(values[outside], half, keys)
    return values.astype(np.int64)


def _feistel(values: NDArray[np.uint64], half: int, keys: Sequence[int]) -> NDArray[np.uint64]:
    """The rounds of the network, over numbers of twice `half` bits."""
    bits = np.uint64(half)
    left, right = values >> bits, values & np.uint64((1 << half) - 1)
    for key in keys:
        mixed = _splitmix64(right ^ np.uint64(key)) >> np.uint64(64 - half)
        left, right = right, left ^ mixed
    return left << bits | right


def _splitmix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele et al. 2014): each bit of 64 depends on all."""
    values = values ^ values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
