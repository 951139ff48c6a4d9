"""Documents as windows of tokens; a window is a part of one document."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer
from regrow.corpus.number_buffer import NumberBuffer
from regrow.corpus.packing import tokenise


class TextWindows(Protocol):
    """Windows in memory or on disk."""

    @property
    def longest(self) -> int:
        """The most tokens that a window may have."""

    @property
    def longest_length(self) -> int:
        """The tokens of the longest window."""

    @property
    def text_tokens(self) -> int:
        """Tokens of all windows."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a window."""

    def pieces(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of each of these windows."""

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these windows."""

    @property
    def identity(self) -> str:
        """A hash of all tokens and of where the windows begin."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows in memory, in order; every token of the documents is in one of them.

    Attributes:
        tokens: Of all documents, one after the other, [tokens].
        starts: Where each window begins in `tokens`, ascending, first 0, [windows].
        longest: The most tokens that a window may have.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    longest: int

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, number: int) -> NDArray[np.int32]:
        """The token ids of a window."""
        start = self.starts[number]
        return self.tokens[start : start + self.lengths[number]]

    def pieces(self, numbers: NDArray[np.int64]) -> list[NDArray[np.int32]]:
        """The token ids of each of these windows."""
        return [self[number] for number in numbers.tolist()]

    @property
    def longest_length(self) -> int:
        """The tokens of the longest window."""
        return int(self.lengths.max())

    @property
    def text_tokens(self) -> int:
        """Tokens of all windows."""
        return len(self.tokens)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens in each window, [windows]."""
        return np.diff(np.append(self.starts, len(self.tokens)))

    def lengths_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens in each of these windows."""
        return self.lengths[numbers]

    @cached_property
    def identity(self) -> str:
        """A hash of all tokens and of where the windows begin."""
        digest = hashlib.sha256(b"windows\0")
        digest.update(len(self.tokens).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(self.tokens, dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.starts, dtype="<i8").data)
        return digest.hexdigest()


def as_one_array(
    windows: TextWindows, numbers: NDArray[np.int64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """An array that holds the tokens of these windows, and where each begins in it, [windows]."""
    if isinstance(windows, Windows):
        return windows.tokens, windows.starts[numbers]
    found = windows.pieces(numbers)
    lengths = np.array([len(window) for window in found], dtype=np.int64)
    return np.concatenate(found), np.cumsum(lengths) - lengths


def cut_windows(documents: Iterable[str], tokenizer: Tokenizer, longest: int) -> Windows:
    """Documents cut into windows of at most `longest` tokens.

    Each document gives as few windows as possible, which differ by at most one token in length.

    Raises UserError if the documents hold no token.
    """
    tokens, starts = NumberBuffer(np.int32), NumberBuffer(np.int64)
    for ids in tokenise(documents, tokenizer):
        pieces = -(-len(ids) // longest)
        starts.extend(len(tokens) + piece * len(ids) // pieces for piece in range(pieces))
        tokens.extend(ids)
    if not len(tokens):
        raise UserError("the text holds no token; give at least one document with text")
    return Windows(tokens.numbers(), starts.numbers(), longest)
