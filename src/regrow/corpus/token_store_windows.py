"""A token store as windows, read from disk window by window.

The document of a window is found by a table with one entry for each 64 documents, and then in the
index on disk. So memory is 8 bytes for 64 documents: 2.5 MB for 20 million documents.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.mapped_files import Offsets
from regrow.corpus.token_store import TokenStore

_STRIDE = 64
"""Documents for each entry of the table."""
_AT_ONCE = 1 << 12
"""Windows that are looked up at once."""


@dataclass(frozen=True, eq=False)
class StoreWindows:
    """The windows that `cut_windows` makes of the documents of a store, without their end tokens.

    Attributes:
        store: The documents.
        longest: The most tokens that a window may have.
        firsts: The number of windows before each group of `_STRIDE` documents, and of all windows,
            [groups + 1].
        text_tokens: Of all windows.
        longest_length: The tokens of the longest window.
    """

    store: TokenStore
    longest: int
    firsts: Offsets
    text_tokens: int
    longest_length: int

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a window."""
        return self.pieces(np.array([number]))[0]

    def pieces(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of each of these windows."""
        starts, stops = self._places(numbers)
        return [
            self.store.tokens[start:stop].astype(np.int32)
            for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
        ]

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these windows."""
        found = np.empty(len(numbers), dtype=np.int64)
        for first in range(0, len(numbers), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            starts, stops = self._places(numbers[part])
            found[part] = stops - starts
        return found

    @cached_property
    def identity(self) -> str:
        """A hash of all tokens and of where the windows begin."""
        return identity_of("store windows", longest=self.longest, store=self.store.identity)

    def _places(self, numbers: NDArray[np.int64]) -> tuple[Offsets, Offsets]:
        """Where these windows begin and end among the tokens of the store, [windows] each."""
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise IndexError(f"windows {numbers.min()} to {numbers.max()} of {len(self)}")
        strides = np.searchsorted(self.firsts, numbers, side="right") - 1
        ranks = numbers - self.firsts[strides]

        # [windows, documents of the group]; past the last document, they are empty.
        documents = (strides * _STRIDE)[:, None] + np.arange(_STRIDE + 1)
        bounds = self.store.starts_of(np.minimum(documents, len(self.store)))
        lengths = np.diff(bounds) - (self.store.end is not None)
        pieces = -(-lengths // self.longest)
        np.maximum(pieces, 0, out=pieces)
        after = np.cumsum(pieces, axis=1)
        inside = (after <= ranks[:, None]).sum(axis=1)

        each = np.arange(len(numbers))
        start, length, count = (array[each, inside] for array in (bounds, lengths, pieces))
        piece = ranks - (after[each, inside] - count)
        return start + piece * length // count, start + (piece + 1) * length // count


def cut_store(store: TokenStore, longest: int) -> StoreWindows:
    """The documents of a store as windows. Reads the index once, and no tokens.

    Raises UserError if the documents hold no token, or the index is corrupt.
    """
    counts = [np.zeros(1, dtype=np.int64)]
    tokens = longest_length = 0
    at_once = _STRIDE * 4096
    for first in range(0, len(store), at_once):
        lengths = _lengths(store, first, min(first + at_once, len(store)))
        pieces = -(-lengths // longest)
        counts.append(np.add.reduceat(pieces, np.arange(0, len(pieces), _STRIDE)))
        tokens += int(lengths.sum())
        longest_of_each = -(-lengths // np.maximum(pieces, 1))
        longest_length = max(longest_length, int(longest_of_each.max()))
    firsts = np.cumsum(np.concatenate(counts))
    if tokens == 0:
        raise UserError(f"{store.path}: the documents hold no token")
    return StoreWindows(store, longest, firsts, tokens, longest_length)


def _lengths(store: TokenStore, first: int, last: int) -> Offsets:
    """The number of tokens of each document, without its end token."""
    lengths: Offsets = np.diff(store.bounds(first, last)) - (store.end is not None)
    if "end" in store.facts and (lengths < 0).any():
        raise UserError(
            f"{store.path}: document {first + int(lengths.argmin())} is empty, where each should "
            f"end with token {store.end}"
        )
    return np.maximum(lengths, 0, out=lengths)
