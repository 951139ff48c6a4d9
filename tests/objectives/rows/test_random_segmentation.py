"""Random divisions: whole, as likely as each other, and a sample's own whatever is beside it."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.objectives.rows.random_segmentation import random_bits, sample_keys, segment_lengths

divisions = st.integers(1, 300).flatmap(
    lambda total: st.tuples(st.just(total), st.integers(1, total))
)


def divided(
    samples: Sequence[int], totals: Sequence[int], segments: Sequence[int], seed: int = 0
) -> list[list[int]]:
    """The lengths of each sample's segments."""
    keys = sample_keys(seed, "test", np.array(samples))
    lengths = segment_lengths(keys, np.array(totals), np.array(segments))
    edges = np.concatenate([[0], np.cumsum(segments)]).tolist()
    assert len(lengths) == edges[-1]
    return [lengths[first:last].tolist() for first, last in pairwise(edges)]


@settings(deadline=None)
@given(st.lists(divisions, min_size=1, max_size=12), st.integers(0, 2**63 - 1))
def test_segments_fill_the_whole(rows: list[tuple[int, int]], seed: int) -> None:
    totals, segments = zip(*rows, strict=True)
    for total, count, lengths in zip(
        totals, segments, divided(range(len(rows)), totals, segments, seed), strict=True
    ):
        assert len(lengths) == count
        assert sum(lengths) == total
        assert min(lengths) >= 1


@settings(deadline=None)
@given(st.lists(divisions, min_size=1, max_size=12), st.integers(0, 99), st.data())
def test_a_division_is_the_same_in_any_batch(
    rows: list[tuple[int, int]], seed: int, data: st.DataObject
) -> None:
    totals, segments = zip(*rows, strict=True)
    samples = data.draw(
        st.lists(st.integers(0, 2**62), min_size=len(rows), max_size=len(rows), unique=True)
    )
    together = divided(samples, totals, segments, seed)
    for sample, total, count, lengths in zip(samples, totals, segments, together, strict=True):
        assert divided([sample], [total], [count], seed) == [lengths]


def chi_square(drawn: NDArray[np.int64], outcomes: int) -> float:
    """Of outcomes 0 to `outcomes - 1` that should be as likely, in standard deviations."""
    counts = np.bincount(drawn, minlength=outcomes)
    assert len(counts) == outcomes
    expected = len(drawn) / outcomes
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (outcomes - 1)) / math.sqrt(2 * (outcomes - 1))


SMALL = [(5, 3, 6), (6, 2, 5), (7, 5, 15), (9, 4, 56), (8, 7, 7)]
DRAWS = 30_000


@pytest.mark.parametrize(("total", "segments", "outcomes"), SMALL)
def test_all_divisions_are_as_likely(total: int, segments: int, outcomes: int) -> None:
    drawn = divided(range(DRAWS), [total] * DRAWS, [segments] * DRAWS)
    numbered: dict[tuple[int, ...], int] = {}
    found = np.array([numbered.setdefault(tuple(each), len(numbered)) for each in drawn])
    assert len(numbered) == outcomes
    assert abs(chi_square(found, outcomes)) < 4
    # What a sample draws says nothing of what the next one does.
    assert abs(chi_square(found[:-1:2] * outcomes + found[1::2], outcomes**2)) < 4


def test_a_sequence_of_bits_is_that_of_splitmix64() -> None:
    """Against its published form, one number after another, from the state 1234567."""
    state, wanted = 1234567, []
    for _ in range(5):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        wanted.append(z ^ z >> 31)
    # The first of them as test vectors of other implementations have it.
    assert wanted[0] == 6457827717110365317
    keys = np.full(5, 1234567, dtype=np.uint64)
    assert random_bits(keys, np.arange(5)).tolist() == wanted


def test_keys_differ_by_seed_purpose_and_sample() -> None:
    samples = np.arange(1_000)
    keys = [sample_keys(seed, purpose, samples) for seed in (0, 1) for purpose in ("noise", "rest")]
    assert len(set(np.concatenate(keys).tolist())) == 4_000
