"""What a training loop asks of data, and the order in which it asks."""

import hashlib
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Batch = dict[str, NDArray[Any]]
"""Named arrays whose first dimension is the sample; the objective knows the names."""


class Samples(Protocol):
    """A fixed set of rows of text; sample ``i`` of a training is the same whoever asks for it."""

    @property
    def row_length(self) -> int:
        """Bound on the text tokens in a row."""

    def __len__(self) -> int: ...

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Text tokens in each of these rows."""

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """These rows, stacked, each as the sample of this number in the whole training.

        What is drawn at random for a sample depends on its number and nothing else.
        """

    @property
    def identity(self) -> str:
        """A hash of everything that decides what the samples hold."""


def random_stream(seed: int, purpose: str, counter: int) -> np.random.Philox:
    """Random bits that are a pure function of (seed, purpose, counter).

    Philox is counter-based (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
    the key comes from seed and purpose, and each counter has 2**192 blocks of its own.
    """
    digest = hashlib.sha256(f"{purpose}\0{seed}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype="<u8").astype(np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, 0, 0, counter], dtype=np.uint64))


class DataOrder:
    """Which row is sample ``i``: entry ``i % rows`` of the permutation of epoch ``i // rows``."""

    def __init__(self, seed: int, rows: int) -> None:
        self._seed = seed
        self._rows = rows
        self._epoch = -1
        self._permutation = np.empty(0, dtype=np.int64)

    def rows(self, start: int, stop: int) -> NDArray[np.int64]:
        """The rows of samples ``start`` to ``stop - 1``."""
        found = np.empty(stop - start, dtype=np.int64)
        index = start
        while index < stop:
            epoch, entry = divmod(index, self._rows)
            count = min(self._rows - entry, stop - index)
            found[index - start : index - start + count] = self._of(epoch)[entry : entry + count]
            index += count
        return found

    def _of(self, epoch: int) -> NDArray[np.int64]:
        if epoch != self._epoch:
            # Sorting raw bits: unlike Generator.permutation, the same in every numpy.
            keys = random_stream(self._seed, "data order", epoch).random_raw(self._rows)
            self._permutation = np.argsort(keys, kind="stable").astype(np.int64)
            self._epoch = epoch
        return self._permutation
