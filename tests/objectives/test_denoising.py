"""Spans taken out of a text: nothing lost, nothing doubled, counts as said."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.objectives.denoising import (
    SPAN_CORRUPTION,
    Denoiser,
    DenoisingTokens,
    corrupt,
    segment_lengths,
)

EOS, START = 1, 0
SENTINELS = tuple(range(2_000, 1_000, -1))
MARKS = DenoisingTokens((77,), SENTINELS, EOS, START, START)

denoisers = st.builds(Denoiser, st.floats(1, 64), st.floats(0.01, 0.99))


@given(st.integers(1, 300), st.data())
def test_segments_fill_the_whole(total: int, data: st.DataObject) -> None:
    segments = data.draw(st.integers(1, total))
    lengths = segment_lengths(np.random.Philox(data.draw(st.integers(0, 99))), total, segments)
    assert len(lengths) == segments
    assert lengths.sum() == total
    assert lengths.min() >= 1


def test_all_divisions_are_as_likely() -> None:
    random = np.random.Philox(0)
    drawn = [tuple(segment_lengths(random, 5, 3).tolist()) for _ in range(6_000)]
    counts = {division: drawn.count(division) for division in set(drawn)}
    assert len(counts) == 6
    assert min(counts.values()) > 880


@given(denoisers, st.integers(1, 400), st.integers(0, 2**32 - 1))
def test_source_and_target_make_the_text(denoiser: Denoiser, length: int, seed: int) -> None:
    text = np.random.default_rng(seed).integers(2, 900, length).astype(np.int32)
    source, target = corrupt(text, denoiser, MARKS, np.random.Philox(seed))
    assert source[0] == 77
    assert source[-1] == target[-1] == EOS
    noise, spans = denoiser.counts(length)
    assert len(target) == noise + spans + 1
    assert len(source) == 1 + length - noise + spans + 1
    pieces: dict[int, list[int]] = {}
    for token in target[:-1].tolist():
        if token in SENTINELS:
            pieces[token] = []
        else:
            pieces[next(reversed(pieces))].append(token)
    assert list(pieces) == list(SENTINELS[:spans])
    assert all(pieces.values())
    whole = [t for token in source[1:-1].tolist() for t in pieces.get(token, [token])]
    assert whole == text.tolist()
    if length > 1:
        assert source[1] not in SENTINELS


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(512, (77, 26)), (568, (85, 28)), (1, (1, 1)), (2, (1, 1)), (3_000, (450, 150))],
)
def test_counts_are_those_of_t5(tokens: int, expected: tuple[int, int]) -> None:
    assert SPAN_CORRUPTION.counts(tokens) == expected
