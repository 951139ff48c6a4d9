import pytest

from regrow.evaluation.task_results import quality_kept


def test_the_quality_that_is_kept_is_over_chance() -> None:
    original = {"a": (0.75, 0.25), "b": (0.60, 0.50)}
    assert quality_kept(original, {"a": 0.75, "b": 0.60}) == pytest.approx(1)
    assert quality_kept(original, {"a": 0.25, "b": 0.50}) == pytest.approx(0)
    assert quality_kept(original, {"a": 0.55, "b": 0.56}) == pytest.approx(0.6)
    assert quality_kept({"a": (0.2, 0.25)}, {"a": 0.5}) is None
    with_a_guess = {**original, "guessed": (0.4, 0.5)}
    lost = {"a": 0.55, "b": 0.56, "guessed": 0.9}
    assert quality_kept(with_a_guess, lost) == pytest.approx(0.6)
    assert quality_kept({}, {}) is None
