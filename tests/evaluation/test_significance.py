from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.evaluation.significance import mcnemar, paired_test


@given(st.integers(0, 60), st.integers(0, 60))
def test_mcnemar_is_the_two_sided_binomial_test(first: int, second: int) -> None:
    count = first + second
    tail = sum(comb(count, k) for k in range(min(first, second) + 1)) / 2**count
    assert mcnemar(first, second) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(first, second) == mcnemar(second, first)


def test_mcnemar_of_many_questions() -> None:
    """Compared with the normal approximation, which is good for so many."""
    import math

    z = (3200 - 3000 - 1) / math.sqrt(6200)
    assert mcnemar(3000, 3200) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.01)
    assert 0 <= mcnemar(1000, 9000) < 1e-300


def test_a_paired_test_of_right_and_wrong_answers() -> None:
    first = [1, 1, 1, 0, 0, 0, 1, 1, 1, 1]
    second = [1, 0, 0, 1, 0, 0, 0, 1, 0, 0]
    found = paired_test(first, second)
    assert (found.only_first, found.only_second, found.questions) == (5, 1, 10)
    assert found.difference == pytest.approx(-0.4)
    assert found.p_value == pytest.approx(2 * 7 / 64)
    assert not found.is_significant


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40))
def test_the_interval_is_that_of_drawn_questions(pairs: list[tuple[int, int]]) -> None:
    """Compared with questions that are drawn one by one."""
    differences = np.array([after - before for before, after in pairs], dtype=float)
    found = paired_test([float(a) for a, _ in pairs], [float(b) for _, b in pairs])
    drawn = np.random.default_rng(1).choice(differences, (4000, len(pairs))).mean(axis=1)
    low, high = np.percentile(drawn, (2.5, 97.5))
    step = 6 / len(pairs) ** 0.5
    assert abs(found.low - low) < 0.2 * step
    assert abs(found.high - high) < 0.2 * step
    assert found.low <= found.difference + 1e-9
    assert found.high >= found.difference - 1e-9


def test_marks_that_are_no_hits_have_no_p_value() -> None:
    found = paired_test([0.5, 0.25] * 20, [0.75, 0.5] * 20)
    assert found.p_value is None
    assert found.is_significant
