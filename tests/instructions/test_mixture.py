"""Rates, caps and duplicates."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.instructions.config import Instructions
from regrow.instructions.mixture import Chooser, Index, shortages, whole_shares

ROWS = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 1), st.sampled_from(["cloze", "dialogue"])),
    min_size=1, max_size=40,
)  # fmt: skip

UNIQUE = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 1), st.sampled_from(["cloze", "dialogue"])),
    min_size=1, max_size=40, unique_by=lambda row: row[0],
)  # fmt: skip


def spec(**values: object) -> Instructions:
    sources = [{"name": name, "path": name} for name in "ab"]
    return Instructions.model_validate({"name": "n", "sources": sources, **values})


def index_of(rows: list[tuple[int, int, str]]) -> Index:
    index = Index()
    for draw, source, task in sorted(rows, key=lambda row: row[1]):
        index.add(draw, source, task, heldout=False, dropped=False)
    return index


def taken(given: list[tuple[int, int, str]], **values: object) -> list[tuple[int, int]]:
    index = index_of(given)
    chosen = Chooser(index, spec(**values)).choose(np.ones(len(index), dtype=bool)).taken
    return [(index.draws[n], index.sources[n]) for n in np.flatnonzero(chosen).tolist()]


@given(UNIQUE, st.integers(1, 10), st.integers(1, 10))
def test_caps_take_the_least_draws(
    rows: list[tuple[int, int, str]], task_cap: int, cap: int
) -> None:
    values = {
        "task_caps": {"cloze": task_cap},
        "sources": [{"name": "a", "path": "a", "cap": cap}, {"name": "b", "path": "b"}],
    }
    cloze = sorted(row for row in rows if row[2] == "cloze")[:task_cap]
    others = [row for row in rows if row[2] != "cloze"]
    first = sorted(row[0] for row in [*cloze, *others] if row[1] == 0)[:cap]
    second = [row[0] for row in [*cloze, *others] if row[1] == 1]
    found = taken(rows, **values)
    assert sorted(draw for draw, source in found if source == 0) == first
    assert sorted(draw for draw, source in found if source == 1) == sorted(second)


@given(ROWS)
def test_duplicates_are_all_but_the_first(rows: list[tuple[int, int, str]]) -> None:
    index = index_of(rows)
    found = Chooser(index, spec()).duplicates(np.zeros(len(index), dtype=bool))
    seen: set[int] = set()
    expected = [draw in seen or bool(seen.add(draw)) for draw in index.draws]  # type: ignore[func-returns-value]
    assert found.tolist() == expected


def test_rates_without_rows_are_exact() -> None:
    rows = [(n, 0, "cloze") for n in range(30)] + [(100 + n, 1, "cloze") for n in range(5)]
    sources = [{"name": "a", "path": "a", "rate": 3}, {"name": "b", "path": "b", "rate": 1}]
    found = taken(rows, sources=sources)
    assert Counter(source for _, source in found) == {0: 15, 1: 5}
    assert [draw for draw, source in found if source == 0] == [*range(15)]


def test_rates_with_rows_say_what_is_missing() -> None:
    rows = [(n, 0, "cloze") for n in range(30)] + [(100 + n, 1, "cloze") for n in range(5)]
    sources = [{"name": "a", "path": "a", "rate": 1}, {"name": "b", "path": "b", "rate": 1}]
    index, wanted = index_of(rows), spec(sources=sources, rows=20)
    choice = Chooser(index, wanted).choose(np.ones(len(index), dtype=bool))
    assert choice.taken.sum() == 15
    assert shortages(wanted, choice, {"a": 10, "b": 5}) == ["b: 5 of the 10 that its rate asks for"]


def test_rows_alone_take_the_least_draws_of_all() -> None:
    rows = [(n, n % 2, "cloze") for n in range(10)]
    assert sorted(taken(rows, rows=4)) == [(0, 0), (1, 1), (2, 0), (3, 1)]


@given(st.integers(0, 1_000), st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_whole_shares_add_up(total: int, parts: list[int]) -> None:
    shares = [part / sum(parts) for part in parts]
    found = whole_shares(total, shares)
    assert sum(found) == total
    assert all(abs(n - total * share) < 1.0001 for n, share in zip(found, shares, strict=True))


def test_rates_for_all_or_none() -> None:
    with pytest.raises(ValueError, match="give all sources a rate, or none"):
        spec(sources=[{"name": "a", "path": "a", "rate": 3}, {"name": "b", "path": "b"}])
