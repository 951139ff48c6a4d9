"""How much is taken out of a text, and in how many spans."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, UL2, Denoiser, noise_and_spans

denoisers = st.builds(
    Denoiser, st.one_of(st.just(math.inf), st.floats(1, 64)), st.floats(0.01, 0.99)
)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(512, (77, 26)), (568, (85, 28)), (1, (1, 1)), (2, (1, 1)), (3_000, (450, 150))],
)
def test_counts_are_those_of_t5(tokens: int, expected: tuple[int, int]) -> None:
    assert SPAN_CORRUPTION.counts(tokens) == expected


def test_counts_of_the_seven() -> None:
    assert {name: denoiser.counts(568) for name, denoiser in UL2.items()} == {
        "R1": (85, 28), "R2": (85, 11), "S": (142, 1),
        "X1": (284, 95), "X2": (284, 36), "X3": (85, 1), "X4": (284, 4),
    }  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.tuples(denoisers, st.integers(1, 3_000)), min_size=1))
def test_every_span_has_a_token_and_one_before_it(rows: list[tuple[Denoiser, int]]) -> None:
    lengths = np.array([length for _, length in rows])
    noise, spans = noise_and_spans(
        lengths,
        np.array([denoiser.mean_span for denoiser, _ in rows]),
        np.array([denoiser.rate for denoiser, _ in rows]),
    )
    assert ((spans >= 1) & (spans <= noise)).all()
    assert (noise[lengths == 1] == 1).all()
    longer = lengths > 1
    assert (noise < lengths)[longer].all()
    assert (spans <= lengths - noise)[longer].all()
    alone = [denoiser.counts(length) for denoiser, length in rows]
    assert alone == list(zip(noise.tolist(), spans.tolist(), strict=True))
