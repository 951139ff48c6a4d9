"""Shares of denoisers: as said, from the sample on that is said, and nothing before it changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.objectives.rows.denoiser_mixture import MixtureHistory

weights = st.lists(st.floats(0, 10), min_size=3, max_size=3).filter(lambda w: sum(w) > 1e-3)
samples = st.lists(st.integers(0, 2**40), min_size=1, max_size=50)


@settings(deadline=None)
@given(weights, st.lists(st.tuples(st.integers(1, 50), weights), max_size=6), st.integers(0, 99))
def test_a_change_changes_no_sample_before_it(
    begins: list[float], changes: list[tuple[int, list[float]]], seed: int
) -> None:
    history = MixtureHistory.constant(begins)
    numbers = np.arange(400)
    first = 0
    for step, new in changes:
        first += step
        before = history.draw(seed, numbers)
        history = history.changed(first, new)
        after = history.draw(seed, numbers)
        assert (before[:first] == after[:first]).all()
        assert (after[first:] == MixtureHistory.constant(new).draw(seed, numbers)[first:]).all()
    assert sum(history.current) == pytest.approx(1)


@settings(deadline=None)
@given(weights, st.integers(0, 2**62), samples)
def test_a_draw_is_the_same_in_any_batch_and_never_of_no_share(
    given_weights: list[float], seed: int, numbers: list[int]
) -> None:
    history = MixtureHistory.constant(given_weights)
    together = history.draw(seed, np.array(numbers)).tolist()
    assert together == [int(history.draw(seed, np.array([number]))[0]) for number in numbers]
    assert all(given_weights[kind] > 0 for kind in together)


def test_shares_are_kept() -> None:
    history = MixtureHistory.constant([1, 2, 0, 5]).changed(50_000, [1, 0, 1, 0])
    drawn = history.draw(7, np.arange(100_000))
    for part, wanted in ((drawn[:50_000], [1, 2, 0, 5]), (drawn[50_000:], [4, 0, 4, 0])):
        found = np.bincount(part, minlength=4) / len(part)
        assert np.abs(found - np.array(wanted) / 8).max() < 0.01
        assert found[2 if wanted[2] == 0 else 1] == 0


def test_a_change_at_the_same_sample_takes_its_place() -> None:
    history = MixtureHistory.constant([1, 1]).changed(10, [1, 3])
    assert history.changed(10, [3, 1]).changes == ((0, (0.5, 0.5)), (10, (0.75, 0.25)))
    assert history.changed(20, [2, 6]) is history
    assert MixtureHistory.constant([1, 1]).changed(0, [1, 0]).changes == ((0, (1.0, 0.0)),)


@pytest.mark.parametrize("wrong", [[0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1]])
def test_what_is_no_weight_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        MixtureHistory.constant(wrong)


def test_the_past_is_refused() -> None:
    history = MixtureHistory.constant([1, 1]).changed(10, [1, 3])
    with pytest.raises(ValueError, match="a change at sample 9"):
        history.changed(9, [1, 1])
    with pytest.raises(ValueError, match="3 weights, 2 denoisers"):
        history.changed(11, [1, 1, 1])
