"""Hashes of the words of a text and of its n-grams, as arrays.

A word is a run of letters, digits and marks. In scripts without spaces between words, such as
Chinese, each character is a word. So n-grams of words are n-grams of characters there. All work is
on whole arrays: some 25 MB of text a second on one core, where lists of Python strings with the
same n-grams take several times as long (`benchmarks/cleaning.py`).
"""

import unicodedata
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

PIECE = 1 << 20
"""Characters whose words are hashed at once; it bounds the memory."""
_OVERLAP = 1 << 12
_SEED = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1
_INVERSE = pow(_SEED, -1, 1 << 64)
_LONGEST_WORD = 64
"""Characters whose place in a word counts; places repeat after them."""
_WORD, _ALONE = 1, 2
_NO_SPACES = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF),
    (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF),
)  # fmt: skip
"""Thai and Lao, Burmese, Khmer, kana, and Chinese characters."""


class Words(NamedTuple):
    """The words of a text, in order.

    Attributes:
        hashes: A hash of each.
        alone: Whether it is one character of a script without spaces.
    """

    hashes: Hashes
    alone: NDArray[np.bool_]


def normalised(text: str) -> str:
    """The text by which documents are compared: without case and forms of characters (NFKC).

    Of more than a million characters, only the case changes, since to order marks may take long.
    """
    if len(text) <= PIECE and not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return text.casefold()


def word_pieces(text: str) -> list[Hashes]:
    """The words of a normalised text, in pieces that overlap by more than any n-gram."""
    return [
        words_of(text[start : start + PIECE + _OVERLAP]).hashes
        for start in range(0, max(1, len(text)), PIECE)
    ]


def words_of(text: str) -> Words:
    """The words of a text, or of a piece of one; it should be normalised."""
    points = np.frombuffer(text.encode("utf-32-le"), dtype="<u4")
    kinds = _kinds()[points]
    at = np.flatnonzero(kinds)
    if not len(at):
        return Words(np.empty(0, np.uint64), np.empty(0, np.bool_))
    kinds = kinds[at]
    begins = kinds == _ALONE
    begins[1:] |= (at[1:] != at[:-1] + 1) | begins[:-1]
    begins[0] = True
    first = np.flatnonzero(begins)
    place = np.arange(len(at)) - np.repeat(first, np.diff(first, append=len(at)))
    values = (points[at].astype(np.uint64) + np.uint64(1)) * _powers(_LONGEST_WORD)[
        place % _LONGEST_WORD
    ]
    return Words(mixed(np.add.reduceat(values, first)), kinds[first] == _ALONE)


class Runs:
    """Hashes of runs of consecutive words, of any length."""

    def __init__(self, words: Hashes) -> None:
        # A run is hashed as the sum of its words times powers, divided by the power of the first
        # word. Powers are of an odd number, which can be divided by modulo 2**64.
        self._sums = np.zeros(len(words) + 1, np.uint64)
        np.cumsum(words * _powers(len(words)), out=self._sums[1:])

    def of_length(self, length: int) -> Hashes:
        """The hash of the run that begins at each word, as long as it fits."""
        count = max(0, len(self._sums) - length)
        return (self._sums[length:] - self._sums[:count]) * _inverse_powers(count)

    def at(self, start: int, length: int) -> int | None:
        """The hash of the run that begins at a word; None if it does not fit."""
        if start + length >= len(self._sums):
            return None
        found = int(self._sums[start + length]) - int(self._sums[start])
        return found * int(_inverse_powers(start + 1)[start]) & _MASK


def ngrams(words: Hashes, size: int) -> Hashes:
    """A hash of each n-gram of so many words; of all words if there are fewer."""
    return Runs(words).of_length(min(size, len(words))) if len(words) else words


def mixed(values: Hashes) -> Hashes:
    """The same values with all bits mixed (the finaliser of splitmix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _powers(count: int) -> Hashes:
    return _table(_SEED, max(PIECE + _OVERLAP, count))[:count]


def _inverse_powers(count: int) -> Hashes:
    return _table(_INVERSE, max(PIECE + _OVERLAP, count))[:count]


@cache
def _table(base: int, count: int) -> Hashes:
    """The powers of a number from 0 on, modulo 2**64."""
    table = np.ones(count, np.uint64)
    done = 1
    while done < count:  # each round doubles what is there
        more = min(done, count - done)
        table[done : done + more] = table[:more] * np.uint64(pow(base, done, 1 << 64))
        done += more
    return table


@cache
def _kinds() -> NDArray[np.uint8]:
    """For each code point: 0 between words, 1 in a word, 2 a word by itself."""
    kinds = np.zeros(0x110000, np.uint8)
    for point in range(0x110000):
        if unicodedata.category(chr(point))[0] in "LNM":
            kinds[point] = _WORD
    for first, last in _NO_SPACES:
        part = kinds[first : last + 1]
        part[part == _WORD] = _ALONE
    return kinds
