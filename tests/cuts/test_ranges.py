"""Lists of indices as short text."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.cuts.ranges import format_ranges, parse_ranges


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9) | st.integers(0, 12), max_size=40))
def test_reads_what_it_writes(indices: list[int]) -> None:
    text = format_ranges(np.array(indices, dtype=np.int64))
    assert parse_ranges(text).tolist() == indices


@pytest.mark.parametrize(
    ("indices", "text"),
    [([], ""), ([7], "7"), ([0, 1, 2, 5], "0-2,5"), ([3, 2, 1], "3,2,1"), ([4, 5, 4], "4-5,4")],
)
def test_writes_runs(indices: list[int], text: str) -> None:
    assert format_ranges(np.array(indices, dtype=np.int64)) == text


def test_spaces_do_not_matter() -> None:
    assert parse_ranges(" 0 - 2 , 5 ").tolist() == [0, 1, 2, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3,", "'' is not a number"),
        ("-3", "'-3' is not a number"),
        ("1-2-3", "'1-2-3' is not a number"),
        ("\u0661", "is not a number"),
        ("5-3", "'5-3' runs backwards"),
        ("0-16", "'0-16' lies beyond 15"),
        ("16", "'16' lies beyond 15"),
        ("0-15,3", "more than 16 indices"),
        ("9" * 30, "is not a number"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_ranges(text, 16)


@settings(deadline=None)
@given(st.text(alphabet="0123456789-, x", max_size=20))
def test_never_another_error(text: str) -> None:
    try:
        indices = parse_ranges(text, 1000)
    except ValueError:
        return
    assert len(indices) <= 1000
    assert all(0 <= i < 1000 for i in indices.tolist())
