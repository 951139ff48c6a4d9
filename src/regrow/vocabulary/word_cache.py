"""A cache of the tokens of words, to count the tokens of a text. A word is encoded once."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.tokenizers.encoding import encode
from regrow.vocabulary.text_splitting import Splitter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_WORDS = 1 << 17
_LONGEST = 32
"""The most characters of a word in the cache; longer ones seldom occur twice."""


class TokenCounter:
    """Counts the tokens of texts.

    Args:
        tokenizer: encodes the texts.
        ids: largest id + 1.
        splitter: splits texts into words; None encodes them whole.
        most: the most words in the cache.
    """

    def __init__(
        self, tokenizer: "Tokenizer", ids: int, splitter: Splitter | None, most: int = _MOST_WORDS
    ) -> None:
        self._splitter = splitter
        self._firsts = _WordCache(tokenizer, ids, "", most // 8)
        self._others = _WordCache(tokenizer, ids, splitter.prefix if splitter else "", most)

    def count(self, texts: list[str]) -> NDArray[np.int64]:
        """Occurrences by token id, shape [ids], in all texts together."""
        if self._splitter is None:
            return self._firsts.count_new(texts, np.ones(len(texts), dtype=np.int64))
        firsts: list[str] = []
        others: list[str] = []
        split = self._splitter.split
        for text in texts:
            first, *rest = split(text)
            firsts.append(first)
            others += rest
        return self._firsts.count(Counter(firsts)) + self._others.count(Counter(others))


class _WordCache:
    """Words and their tokens.

    The tokens of all words are in one array, in the order of the numbers of the words.
    """

    def __init__(self, tokenizer: "Tokenizer", ids: int, prefix: str, most: int) -> None:
        self._tokenizer, self._ids, self._prefix, self._most = tokenizer, ids, prefix, most
        self._numbers: dict[str, int] = {}
        self._tokens = np.empty(1 << 10, dtype=np.int32)
        self._ends = np.zeros(most + 1, dtype=np.int64)

    def count(self, words: Counter[str]) -> NDArray[np.int64]:
        find = self._numbers.get
        numbers = np.fromiter((find(word, -1) for word in words), np.int64, count=len(words))
        times = np.fromiter(words.values(), np.int64, count=len(words))
        known = numbers >= 0
        new = [word for word, is_known in zip(words, known, strict=True) if not is_known]
        return self._count_cached(numbers[known], times[known]) + self.count_new(new, times[~known])

    def _count_cached(
        self, numbers: NDArray[np.int64], times: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        begins = self._ends[numbers]
        lengths = self._ends[numbers + 1] - begins
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        tokens = self._tokens[np.repeat(begins, lengths) + within]
        return self._sum(tokens, times, lengths)

    def count_new(self, words: list[str], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count the tokens of words that are not in the cache, and add them while there is room."""
        tokens, lengths = encode(self._tokenizer, [self._prefix + word for word in words])
        ends = lengths.cumsum()
        for word, end, length in zip(words, ends.tolist(), lengths.tolist(), strict=True):
            if len(self._numbers) == self._most:
                break
            if len(word) <= _LONGEST:
                self._add(word, tokens[end - length : end])
        return self._sum(tokens, times, lengths)

    def _add(self, word: str, tokens: NDArray[np.int64]) -> None:
        number = len(self._numbers)
        begin = int(self._ends[number])
        end = begin + len(tokens)
        if end > len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty(end, dtype=np.int32)])
        self._tokens[begin:end] = tokens
        self._ends[number + 1] = end
        self._numbers[word] = number

    def _sum(
        self, tokens: NDArray[np.integer], times: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        # Sums of float64 are exact below 2**53.
        found = np.bincount(tokens, np.repeat(times, lengths), minlength=self._ids)
        return found.astype(np.int64)
