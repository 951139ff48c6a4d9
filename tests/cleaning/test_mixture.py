"""Sources have their shares, and the corpus its size, to within a document."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.cleaning.config import CorpusConfig
from regrow.cleaning.finisher import UNIQUE
from regrow.cleaning.mixture import Mixture, mix


def records(*sizes: int, each: int = 100) -> NDArray[np.void]:
    """Sources of so many documents of 100 characters, 40 tokens."""
    made = np.zeros(sum(sizes), UNIQUE)
    made["source"] = np.repeat(np.arange(len(sizes)), sizes)
    made["characters"], made["tokens"] = each, 40
    made["key"] = np.random.default_rng(0).integers(0, 1 << 64, len(made), dtype=np.uint64)
    return made


def config(*shares: float | None, **more: Any) -> CorpusConfig:
    sources = [
        {"name": f"s{number}", "path": "a.txt", "share": share}
        for number, share in enumerate(shares)
    ]
    return CorpusConfig.model_validate({"out": "o", "sources": sources, **more})


def taken(mixture: Mixture, made: NDArray[np.void]) -> list[int]:
    return [int(n) for n in np.bincount(made["source"], mixture.copies(made)).round()]


def test_without_shares_and_size_all_is_taken_once() -> None:
    made = records(30, 20)
    mixture = mix(config(None, None), made)
    assert mixture.copies(made).tolist() == [1] * 50
    assert mixture.notes == ()
    assert [row.times for row in mixture.rows] == [1.0, 1.0]


def test_a_size_without_shares_is_the_most() -> None:
    made = records(30, 20)
    assert taken(mix(config(None, None, documents=10), made), made) == [6, 4]
    mixture = mix(config(None, None, documents=100), made)
    assert taken(mixture, made) == [30, 20]
    assert mixture.notes == (
        "the corpus has 50 documents in all, fewer than the 100 that were asked for",
    )


@pytest.mark.parametrize(
    ("sizes", "shares", "size", "expected"),
    [
        ((50, 50), (None, None), 1, [1, 0]),
        ((33, 33, 34), (None, None, None), 10, [3, 3, 4]),
        ((50, 50), (0.5, 0.5), 1, [1, 0]),
        ((50, 50, 50), (1 / 3, 1 / 3, 1 / 3), 10, [4, 3, 3]),
    ],
)
def test_a_small_size_is_taken_whole(
    sizes: tuple[int, ...], shares: tuple[float | None, ...], size: int, expected: list[int]
) -> None:
    made = records(*sizes)
    assert taken(mix(config(*shares, documents=size), made), made) == expected


def test_shares_without_a_size_repeat_nothing() -> None:
    made = records(300, 20)
    mixture = mix(config(0.75, 0.25), made)
    assert taken(mixture, made) == [60, 20]
    assert [row.want for row in mixture.rows] == [6_000, 2_000]


def test_tokens_and_a_source_that_is_empty() -> None:
    made = records(300, 0, 20)
    mixture = mix(config(0.5, 0.25, 0.25, tokens=12_000, tokenise="m"), made)
    assert mixture.unit == "tokens"
    assert taken(mixture, made) == [200, 0, 100][:3]
    assert mixture.rows[2].times == 5
    assert "nothing is left of s1" in mixture.notes[0]
    assert "each document of s2 stands 5.0 times" in mixture.notes[1]
    assert mixture.rounds == 5


@given(
    counts=st.lists(st.integers(1, 200), min_size=2, max_size=4),
    size=st.integers(100, 60_000),
    first=st.floats(0.05, 0.9),
)
def test_what_is_taken_is_what_is_wanted(counts: list[int], size: int, first: float) -> None:
    made = records(*counts)
    shares = [first, *[(1 - first) / (len(counts) - 1)] * (len(counts) - 1)]
    mixture = mix(config(*shares, characters=size), made)
    for number, row in enumerate(mixture.rows):
        assert row.taken == 100 * taken(mixture, made)[number]
        assert abs(row.taken - row.want) <= 50
        assert row.times == row.taken / row.have
        assert abs(row.want - size * shares[number] / sum(shares)) < 1
    assert sum(row.want for row in mixture.rows) == size
    copies = mixture.copies(made)
    assert max(copies) <= mixture.rounds
    for number in range(len(counts)):
        mine = copies[made["source"] == number]
        assert mine.max() - mine.min() <= 1


@pytest.mark.parametrize("key", [0, (1 << 64) - 1])
def test_keys_at_the_ends(key: int) -> None:
    made = records(3)
    made["key"] = key
    for want in (100, 150, 160, 250):
        copies = mix(config(None, characters=want), made).copies(made)
        assert len({*copies.tolist()}) == 1  # equal texts have one key, and one fate
