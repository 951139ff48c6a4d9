"""Several sources of rows as one: the rows of one source after those of another.

The source of each row is known by name. So losses can be shown by source, and the shares of the
sources can change during a training.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.mixed_order import MixedOrder
from regrow.corpus.samples import (
    Batch,
    Components,
    DataOrder,
    MixedSamples,
    Order,
    Samples,
    components_of,
    slots_of,
)
from regrow.corpus.shares import DOMAIN, Shares
from regrow.corpus.windows import TextWindows

T = TypeVar("T", Samples, TextWindows)


@dataclass(frozen=True, eq=False)
class _Concatenated(Generic[T]):
    """Rows of several sources.

    Attributes:
        sources: By name; at least one, and each has rows.
        shares: The share of each source in the samples; None if each row comes once in an epoch.
        domains: Whether the sources are domains: losses are shown for each of them.
    """

    kind: ClassVar[str]
    """The name of the class in the identity; it stays when the class is renamed."""

    sources: Mapping[str, T]
    shares: Shares[int] | None = None
    domains: bool = True

    def __len__(self) -> int:
        return int(self._ends[-1])

    def order(self, seed: int) -> Order:
        if self.shares is None:
            return DataOrder(seed, len(self))
        return MixedOrder([len(source) for source in self.sources.values()], self.shares, seed)

    def sources_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The source of each of these rows, as its place among the names, [rows]."""
        return np.searchsorted(self._ends, rows, side="right")

    def components(
        self, rows: NDArray[np.int64], samples: NDArray[np.int64]
    ) -> dict[str, Components]:
        """The domain of each row, and the components that the sources themselves know."""
        found: dict[str, Components] = {}
        for source, places, inside in self._by_source(rows):
            for kind, components in components_of(source, inside, samples[places]).items():
                empty = Components(components.names, np.zeros(len(rows), dtype=np.int64))
                found.setdefault(kind, empty).indices[places] = components.indices
        if self.domains:
            found[DOMAIN] = Components(tuple(self.sources), self.sources_of(rows))
        return found

    def mixed(self, kind: str) -> MixedSamples | None:
        """The shares of the sources; None if they have none."""
        return self.shares if kind == DOMAIN else None

    @cached_property
    def identity(self) -> str:
        """A hash of all rows, and of the first shares; later ones follow from the training."""
        shares = self.shares
        return identity_of(
            self.kind,
            sources={name: source.identity for name, source in self.sources.items()},
            shares=None
            if shares is None
            else identity_of("shares", names=shares.names, quotas=shares.first),
        )

    @cached_property
    def _ends(self) -> NDArray[np.int64]:
        return np.cumsum([len(source) for source in self.sources.values()], dtype=np.int64)

    def _gather(
        self,
        rows: NDArray[np.int64],
        lengths: Callable[[T, NDArray[np.int64]], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """The length of each of these rows, [rows]; `lengths`: of rows within a source."""
        found = np.empty(len(rows), dtype=np.int64)
        for source, places, inside in self._by_source(rows):
            found[places] = lengths(source, inside)
        return found

    def _by_source(
        self, rows: NDArray[np.int64]
    ) -> Iterator[tuple[T, NDArray[np.int64], NDArray[np.int64]]]:
        """Each source with its rows among these: their places here, and their numbers within it."""
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        numbers = self.sources_of(rows)
        for number, source in enumerate(self.sources.values()):
            places = np.flatnonzero(numbers == number)
            if len(places):
                yield source, places, rows[places] - (self._ends[number] - len(source))


class ConcatenatedWindows(_Concatenated[TextWindows]):
    """Several sources of windows as one."""

    kind = "joined windows"

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a window."""
        return self.pieces(np.array([number]))[0]

    def pieces(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of each of these windows."""
        found: dict[int, NDArray[np.int32]] = {}
        for source, places, inside in self._by_source(numbers):
            found |= zip(places.tolist(), source.pieces(inside), strict=True)
        return [found[place] for place in range(len(numbers))]

    @property
    def longest(self) -> int:
        """The most tokens that a window may have."""
        return max(source.longest for source in self.sources.values())

    @property
    def longest_length(self) -> int:
        """The tokens of the longest window."""
        return max(source.longest_length for source in self.sources.values())

    @property
    def text_tokens(self) -> int:
        """Tokens of all windows."""
        return sum(source.text_tokens for source in self.sources.values())

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these windows."""
        return self._gather(numbers, lambda source, inside: source.lengths_of(inside))


class ConcatenatedRows(_Concatenated[Samples]):
    """Several `Samples` as one, whose batches are arrays of the same names and widths."""

    kind = "joined rows"

    @property
    def row_length(self) -> int:
        return max(source.row_length for source in self.sources.values())

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self._gather(rows, lambda source, inside: source.lengths(inside))

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Slotted`; all sources fill the same arrays."""
        found: dict[int, NDArray[np.int64]] = {}
        for source, places, inside in self._by_source(rows):
            found |= zip(places.tolist(), slots_of(source, inside, samples[places]), strict=True)
        return np.stack([found[place] for place in range(len(rows))])

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        batch: Batch = {}
        for source, places, inside in self._by_source(rows):
            for name, values in source.batch(inside, samples[places]).items():
                shape = (len(rows), *values.shape[1:])
                batch.setdefault(name, np.empty(shape, dtype=values.dtype))[places] = values
        return batch
