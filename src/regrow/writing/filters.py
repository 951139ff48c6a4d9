"""Which of the texts that a model wrote are kept."""

from collections.abc import Sequence

LEAST_TOKENS = 4
"""A question, an answer or a document with fewer tokens is too short."""
_WINDOW = 128
_GRAM = 4
_LEAST_GRAMS = 16
_LEAST_DISTINCT = 0.5


def is_repetitive(ids: Sequence[int]) -> bool:
    """Whether a text repeats itself, as small models do in a loop.

    True if, in a window of 128 tokens or in a shorter text, fewer than half of the 4-grams of
    tokens are distinct. The windows overlap by half. (Share of repeated n-grams: Rae et al. 2021,
    "Scaling language models", section A.1.)
    """
    last = max(len(ids) - _WINDOW // 2, 1)
    return any(_repeats(ids[at : at + _WINDOW]) for at in range(0, last, _WINDOW // 2))


def _repeats(ids: Sequence[int]) -> bool:
    grams = [tuple(ids[at : at + _GRAM]) for at in range(len(ids) - _GRAM + 1)]
    return len(grams) >= _LEAST_GRAMS and len(set(grams)) < _LEAST_DISTINCT * len(grams)
