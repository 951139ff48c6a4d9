"""Shares change at the sample that is said, and what is no share is refused."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.corpus.shares import Shares, fractions


def halves() -> Shares[float]:
    """Shares of two components, which change at sample 10."""
    shares = Shares(("a", "b"), [1, 1], fractions)
    shares.mix_from(10, [1, 3])
    return shares


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=6))
def test_fractions_go_as_the_weights(weights: list[float]) -> None:
    found = fractions(weights)
    assert sum(found) == pytest.approx(1)
    assert found == pytest.approx([weight / sum(weights) for weight in weights])


def test_a_change_at_the_same_sample_takes_its_place() -> None:
    shares = halves()
    shares.mix_from(10, [3, 1])
    assert shares.changes == [(0, (0.5, 0.5)), (10, (0.75, 0.25))]
    assert (shares.first, shares.changes[-1][1]) == ((0.5, 0.5), (0.75, 0.25))
    shares = Shares(("a", "b"), [1, 1], fractions)
    shares.mix_from(0, [1, 0])
    assert shares.changes == [(0, (1.0, 0.0))]


@pytest.mark.parametrize("wrong", [[0, 0], [-1, 2], [float("nan"), 1], [float("inf"), 1], [1]])
def test_what_is_no_weight_is_refused(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        Shares(("a", "b"), wrong, fractions)
    shares = halves()
    with pytest.raises(ValueError, match="of a, b"):
        shares.mix_from(11, wrong)
    assert len(shares.changes) == 2


def test_the_past_is_refused() -> None:
    shares = halves()
    with pytest.raises(ValueError, match="a change at sample 9, after the one at sample 10"):
        shares.mix_from(9, [1, 1])
    assert len(shares.changes) == 2


def test_it_needs_no_packages() -> None:
    code = "import sys, regrow.corpus.shares\nprint({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
