"""Repetition in lines and n-grams, against plain loops."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.cleaning.repetition import Grams, duplicate_shares


def test_duplicate_parts() -> None:
    assert duplicate_shares([]) == (0, 0)
    assert duplicate_shares(["a", "bb", "a", "a"]) == (2 / 4, 2 / 5)


units = st.lists(st.sampled_from(["a", "bb", "ccc", "汉"]), max_size=30)


@given(units, st.integers(1, 6))
def test_grams_against_loops(words: list[str], n: int) -> None:
    grams = [tuple(words[at : at + n]) for at in range(len(words) - n + 1)]
    total = sum(map(len, words))
    counts = Counter(grams)
    most = max(counts.values(), default=0)
    covered = max((m * sum(map(len, g)) for g, m in counts.items() if m == most), default=0)
    top = min(covered / total, 1.0) if most > 1 else 0.0
    inside: set[int] = set()
    for at, gram in enumerate(grams):
        if gram in grams[:at]:
            inside |= set(range(at, at + n))
    again = sum(len(words[at]) for at in inside) / total if words else 0.0
    made = Grams(words)
    assert made.top_share(n) == pytest.approx(top)
    assert made.duplicate_share(n) == pytest.approx(again)
