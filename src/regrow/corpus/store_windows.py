"""A token store as windows and as rows, without holding it.

Which document a window lies in is found through a table with one entry for so many documents, and
the index on disk. So memory is 8 bytes for 512 documents: 16 MB for a thousand million of them.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.store import Offsets, TokenStore
from regrow.errors import UserError

_STRIDE = 512
"""Documents for each entry of the table."""


@dataclass(frozen=True, eq=False)
class StoreWindows:
    """The windows that `cut_windows` makes of the documents of a store.

    The token that ends a document is in none of them.

    Attributes:
        store: The documents.
        longest: Bound on the tokens in a window.
        firsts: Windows before each stride of documents, and in all, [strides + 1].
        tokens: In all windows.
        longest_length: The tokens of the longest window.
    """

    store: TokenStore
    longest: int
    firsts: Offsets
    tokens: int
    longest_length: int

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a window."""
        start, stop = self._place(number)
        return self.store.tokens[start:stop].astype(np.int32)

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these windows."""
        places = [self._place(number) for number in numbers.tolist()]
        return np.array([stop - start for start, stop in places], dtype=np.int64)

    @cached_property
    def identity(self) -> str:
        """A hash of all tokens and of where the windows begin."""
        return hashlib.sha256(f"windows {self.longest} {self.store.identity}".encode()).hexdigest()

    def _place(self, number: int) -> tuple[int, int]:
        """Where a window begins and ends in the line of tokens."""
        if not 0 <= number < len(self):
            raise IndexError(f"window {number} of {len(self)}")
        stride = int(np.searchsorted(self.firsts, number, side="right")) - 1
        first = stride * _STRIDE
        starts, lengths = _texts(self.store, first, min(first + _STRIDE, len(self.store)))
        pieces = np.cumsum(-(-lengths // self.longest))
        rank = number - int(self.firsts[stride])
        inside = int(np.searchsorted(pieces, rank, side="right"))
        start, length = int(starts[inside]), int(lengths[inside])
        count = -(-length // self.longest)
        piece = rank - (int(pieces[inside]) - count)
        return start + piece * length // count, start + (piece + 1) * length // count


def cut_store(store: TokenStore, longest: int) -> StoreWindows:
    """The documents of a store as windows; reads its index once, and none of its tokens.

    Raises UserError where the documents hold no token, or the index is corrupt.
    """
    counts = [np.zeros(1, dtype=np.int64)]
    tokens = longest_length = 0
    at_once = _STRIDE * 512
    for first in range(0, len(store), at_once):
        _, lengths = _texts(store, first, min(first + at_once, len(store)))
        pieces = -(-lengths // longest)
        counts.append(np.add.reduceat(pieces, np.arange(0, len(pieces), _STRIDE)))
        tokens += int(lengths.sum())
        longest_of_each = -(-lengths // np.maximum(pieces, 1))
        longest_length = max(longest_length, int(longest_of_each.max()))
    firsts = np.cumsum(np.concatenate(counts))
    if tokens == 0:
        raise UserError(f"{store.path}: the documents hold no token")
    return StoreWindows(store, longest, firsts, tokens, longest_length)


def _texts(store: TokenStore, first: int, last: int) -> tuple[Offsets, Offsets]:
    """Where the text of each document begins, and its tokens without the end."""
    bounds = store.bounds(first, last)
    lengths = np.diff(bounds) - (store.end is not None)
    if store.end is not None and (lengths < 0).any():
        raise UserError(
            f"{store.path}: document {first + int(lengths.argmin())} is empty, where each should "
            f"end with token {store.end}"
        )
    return bounds[:-1], lengths
