"""Counting the tokens of texts whose parts come again and again: each part is encoded once."""

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regrow.tokenizers.encoding import encode
from regrow.vocabulary.text_splitting import Splitter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MOST_PARTS = 1 << 17
_LONGEST = 32
"""Characters of a part that may come again; a sentence without spaces hardly does."""


class TokenCounter:
    """Counts tokens, and remembers up to ``most`` short parts of the texts that it saw."""

    def __init__(
        self, tokenizer: "Tokenizer", ids: int, splitter: Splitter | None, most: int = _MOST_PARTS
    ) -> None:
        self._splitter = splitter
        self._firsts = _WordCache(tokenizer, ids, "", most // 8)
        self._others = _WordCache(tokenizer, ids, splitter.prefix if splitter else "", most)

    def count(self, texts: list[str]) -> NDArray[np.int64]:
        """Occurrences by token id, shape [ids], in all texts together."""
        if self._splitter is None:
            return self._firsts.encoded(texts, np.ones(len(texts), dtype=np.int64))
        firsts: list[str] = []
        others: list[str] = []
        split = self._splitter.split
        for text in texts:
            first, *rest = split(text)
            firsts.append(first)
            others += rest
        return self._firsts.count(Counter(firsts)) + self._others.count(Counter(others))


class _WordCache:
    """Parts of texts and their tokens.

    The tokens of all parts stand in one line; a part knows by its number where its own begin.
    """

    def __init__(self, tokenizer: "Tokenizer", ids: int, prefix: str, most: int) -> None:
        self._tokenizer, self._ids, self._prefix, self._most = tokenizer, ids, prefix, most
        self._numbers: dict[str, int] = {}
        self._tokens = np.empty(1 << 10, dtype=np.int32)
        self._ends = np.zeros(most + 1, dtype=np.int64)

    def count(self, parts: Counter[str]) -> NDArray[np.int64]:
        find = self._numbers.get
        numbers = np.fromiter((find(part, -1) for part in parts), np.int64, count=len(parts))
        times = np.fromiter(parts.values(), np.int64, count=len(parts))
        known = numbers >= 0
        new = [part for part, is_known in zip(parts, known, strict=True) if not is_known]
        return self._known(numbers[known], times[known]) + self.encoded(new, times[~known])

    def _known(self, numbers: NDArray[np.int64], times: NDArray[np.int64]) -> NDArray[np.int64]:
        begins = self._ends[numbers]
        lengths = self._ends[numbers + 1] - begins
        within = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
        tokens = self._tokens[np.repeat(begins, lengths) + within]
        return self._sum(tokens, times, lengths)

    def encoded(self, parts: list[str], times: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count parts that are not known, and remember them while there is room."""
        tokens, lengths = encode(self._tokenizer, [self._prefix + part for part in parts])
        ends = lengths.cumsum()
        for part, end, length in zip(parts, ends.tolist(), lengths.tolist(), strict=True):
            if len(self._numbers) == self._most:
                break
            if len(part) <= _LONGEST:
                self._remember(part, tokens[end - length : end])
        return self._sum(tokens, times, lengths)

    def _remember(self, part: str, tokens: NDArray[np.int64]) -> None:
        number = len(self._numbers)
        begin = int(self._ends[number])
        end = begin + len(tokens)
        if end > len(self._tokens):
            self._tokens = np.concatenate([self._tokens, np.empty(end, dtype=np.int32)])
        self._tokens[begin:end] = tokens
        self._ends[number + 1] = end
        self._numbers[part] = number

    def _sum(
        self, tokens: NDArray[np.integer], times: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        # Sums of float64 are exact below 2**53.
        found = np.bincount(tokens, np.repeat(times, lengths), minlength=self._ids)
        return found.astype(np.int64)
