import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.common import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0K"),
        (134_515_008, "134.5M"),
        (65_422_656, "65.4M"),
        (999_949, "999.9K"),
        (999_950, "1.0M"),
        (15_090_000_000, "15.1B"),
        (2.5e15, "2,500.0T"),
    ],
)
def test_count(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (999, "999 B"),
        (1_000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (99_990, "100 kB"),
        (269_060_552, "269 MB"),
        (999_600_000, "1.0 GB"),
        (33_285_996_544, "33.3 GB"),
    ],
)
def test_size(value: int, text: str) -> None:
    assert numbers.size(value) == text


@given(st.integers(0, 10**14))
def test_no_more_than_three_digits_before_the_point(value: int) -> None:
    for text in (numbers.size(value), numbers.count(value)):
        whole = re.match(r"[\d,]+", text)
        assert whole is not None
        assert len(whole[0]) <= (3 if "." in text else 5)


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (134_515_008, 65_422_656, "\N{MINUS SIGN}51%"),
        (2.0, 2.5, "+25%"),
        (200.0, 200.1, "0%"),
        (0.0, 1.0, ""),
        (None, 1.0, ""),
        (1.0, None, ""),
        (float("nan"), 1.0, ""),
        (1.0, float("inf"), ""),
    ],
)
def test_change(before: float | None, after: float | None, text: str) -> None:
    assert numbers.change(before, after) == text


def test_things() -> None:
    assert numbers.things(1, "layer") == "1 layer"
    assert numbers.things(1_024, "layer") == "1,024 layers"
    assert numbers.things(2, "pass", "passes") == "2 passes"
    assert numbers.things(0, "pass", "passes") == "0 passes"


def test_share_interval() -> None:
    assert numbers.share_interval((0.541, 0.6784)) == "54.1 to 67.8%"
    assert numbers.share_interval((-0.041, 12.0)) == f"{numbers.MINUS}4.1 to 1,200.0%"
    assert numbers.share_interval((-0.2, -0.0003)) == f"{numbers.MINUS}20.0 to 0.0%"


def test_decimal() -> None:
    assert numbers.decimal(3.0412) == "3.04"
    assert numbers.decimal(-0.5, 1) == "\N{MINUS SIGN}0.5"
    assert numbers.decimal(None) == "\N{EN DASH}"
    assert numbers.decimal(float("nan")) == "diverged"
    assert numbers.decimal(2e8) == "2.0e+08"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (8.24, "8.2 s"),
        (9.97, "10 s"),
        (59.7, "1 min"),
        (74, "1 min 14 s"),
        (599.6, "10 min"),
        (3_599, "1 h"),
        (4_332, "1 h 12 min"),
        (360_000, "100 h"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert numbers.duration(seconds).replace("\u00a0", " ") == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5_399, "90 min"),
        (9_000, "2.5 h"),
        (36_000, "10 h"),
        (400_000, "4.6 days"),
        (1e7, "120 days"),
        (1e8, "3.2 years"),
        (4.167e11, "13,000 years"),
    ],
)
def test_rough_duration(seconds: float, text: str) -> None:
    assert numbers.rough_duration(seconds).replace("\u00a0", " ") == text


@given(st.sets(st.integers(0, 60)))
def test_ranges_name_each_index_once(indices: set[int]) -> None:
    named: list[int] = []
    for run in filter(None, numbers.ranges(sorted(indices)).split(", ")):
        first, _, last = run.partition(" to ")
        named += range(int(first), int(last or first) + 1)
    assert named == sorted(indices)
