"""The sizes of models as bars."""

from hypothesis import given
from hypothesis import strategies as st

from regrow.report import size_charts
from tests.report.test_charts import check, names

by_part = st.dictionaries(st.sampled_from(["embedding", "ffn", "head"]), st.integers(0, 10**13))


@given(st.lists(st.tuples(names, st.integers(0, 10**13), st.integers(0, 10**13)), max_size=8))
def test_bars(rows: list[tuple[str, int, int]]) -> None:
    svg = check(size_charts.bars("parameters", rows))
    assert (svg is not None) == any(before or after for _, before, after in rows)


@given(st.lists(st.tuples(names, by_part), max_size=8))
def test_staircase(rows: list[tuple[str, dict[str, int]]]) -> None:
    check(size_charts.staircase("parameters", ["embedding", "ffn", "head"], rows))
