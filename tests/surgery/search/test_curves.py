"""The cost of an axis between the measured sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.surgery.search.curves import cost_curve

POINTS = st.lists(
    st.tuples(st.integers(5, 98).map(lambda n: n / 100), st.floats(-1, 5)),
    min_size=1, max_size=6, unique_by=lambda point: point[0],
)  # fmt: skip


@given(POINTS)
def test_a_smaller_size_never_costs_less(points: list[tuple[float, float]]) -> None:
    curve = cost_curve([x for x, _ in points], [y for _, y in points])
    at = np.linspace(curve.shares[0], 1, 101)
    costs = curve.at(at)
    assert (np.diff(costs) <= 1e-9).all()
    assert costs[-1] == 0
    assert costs.max() == pytest.approx(max(0, *(y for _, y in points)))


def test_the_curve_goes_through_what_was_measured() -> None:
    curve = cost_curve([0.4, 0.85, 0.65], [0.9, 0.05, 0.2])
    assert curve.at(np.array([0.4, 0.65, 0.85, 1.0])).tolist() == pytest.approx([0.9, 0.2, 0.05, 0])
    # The first cuts cost less than in proportion, as the measured ones do.
    assert curve.at(np.array([0.95]))[0] < 0.05 / 3


def test_a_cut_that_helps_costs_nothing() -> None:
    curve = cost_curve([0.5, 0.8], [0.3, -0.1])
    assert curve.at(np.array([0.8, 0.9])).tolist() == [0, 0]


def test_where_less_loss_was_measured_the_curve_is_flat() -> None:
    curve = cost_curve([0.3, 0.5], [0.1, 0.2])
    assert curve.at(np.array([0.3, 0.4, 0.5])).tolist() == pytest.approx([0.2, 0.2, 0.2])
