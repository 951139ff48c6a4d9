"""The share of a score above chance that is kept, and its interval."""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.evaluation.quality_kept import ChanceScore, QualityKept, counted_once, quality_kept

ORIGINAL = {"a": ChanceScore(0.75, 0.25, 0.02), "b": ChanceScore(0.60, 0.50, 0.02)}


def share(
    original: Mapping[str, ChanceScore],
    result: Mapping[str, float],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> float | None:
    found = quality_kept(original, result, groups or {})
    assert found is None or found.interval is None
    return None if found is None else found.share


def test_the_quality_that_is_kept_is_over_chance() -> None:
    assert share(ORIGINAL, {"a": 0.75, "b": 0.60}) == pytest.approx(1)
    assert share(ORIGINAL, {"a": 0.25, "b": 0.50}) == pytest.approx(0)
    assert share(ORIGINAL, {"a": 0.55, "b": 0.56}) == pytest.approx(0.6)
    assert share({}, {}) is None


@pytest.mark.parametrize(
    "in_doubt",
    [ChanceScore(0.4, 0.5, 0.01), ChanceScore(0.53, 0.5, 0.02), ChanceScore(0.9, 0.5, None)],
)
def test_what_may_be_above_chance_by_luck_does_not_count(in_doubt: ChanceScore) -> None:
    lost = {"a": 0.55, "b": 0.56, "in doubt": 0.9}
    assert share({**ORIGINAL, "in doubt": in_doubt}, lost) == pytest.approx(0.6)
    assert share({"in doubt": in_doubt}, lost) is None


def test_a_group_counts_once_in_place_of_its_tasks_and_of_groups_inside_it() -> None:
    groups = {"small": ("x",), "large": ("x", "y"), "other": ("y", "z")}
    assert counted_once(("piqa", "x", "y", "z"), groups) == ["large", "piqa", "z"]
    assert counted_once(("piqa", "x"), {}) == ["piqa", "x"]


def test_the_quality_of_a_group_is_that_of_one_task() -> None:
    group = {"g": ChanceScore(0.35, 0.25, 0.02), "x": ChanceScore(0.45, 0.25, 0.02)}
    result = {"a": 0.75, "b": 0.60, "g": 0.25, "x": 0.25}
    groups = {"g": ("x", "y"), "its chance is not known": ("a", "b")}
    assert share({**ORIGINAL, **group}, result, groups) == pytest.approx(0.6 / 0.7)


@given(st.dictionaries(st.text(min_size=2), st.sets(st.sampled_from("abcdef"), min_size=1)))
def test_each_task_counts_once(groups: dict[str, set[str]]) -> None:
    members = {name: tuple(tasks) for name, tasks in groups.items()}
    found = counted_once("abcdef", members)
    counted = [task for name in found for task in members.get(name, (name,))]
    assert sorted(counted) == list("abcdef")


def answered(*counts: int) -> tuple[list[float], list[float]]:
    """Marks: right by both, by the first alone, by the second alone, and by none."""
    both, first, second, none = counts
    return (
        [1.0] * (both + first) + [0.0] * (second + none),
        [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * none,
    )


def kept_of(chance: float, *tasks: tuple[list[float], list[float]]) -> QualityKept:
    names = [str(number) for number in range(len(tasks))]
    original = {
        name: ChanceScore(float(np.mean(first)), chance, 0.01)
        for name, (first, _) in zip(names, tasks, strict=True)
    }
    result = {n: float(np.mean(second)) for n, (_, second) in zip(names, tasks, strict=True)}
    found = quality_kept(original, result, marks=dict(zip(names, tasks, strict=True)))
    assert found is not None
    return found


def test_the_interval_holds_the_share_and_is_narrow_with_many_questions() -> None:
    few, many = (kept_of(0.25, answered(*(n * each for each in (5, 3, 1, 3)))) for n in (20, 500))
    for found in (few, many):
        assert found.interval is not None
        assert found.interval[0] < found.share < found.interval[1]
        assert found.share == few.share
    # The deviation of a ratio of means, by the delta method, at 240 and at 6,000 questions.
    first, second = (np.asarray(each) - 0.25 for each in answered(100, 60, 20, 60))
    deviation = np.std(second - few.share * first) / np.mean(first)
    for found, questions in ((few, 240), (many, 6_000)):
        assert found.interval is not None
        width = 2 * 1.96 * deviation / questions**0.5
        assert found.interval[1] - found.interval[0] == pytest.approx(width, rel=0.1)


def test_several_tasks_are_drawn_apart_from_each_other() -> None:
    tasks = (answered(100, 60, 20, 60), answered(150, 60, 40, 50))
    found = kept_of(0.25, *tasks)
    assert found.interval is not None
    whole, variance = 0.0, 0.0
    for marks in tasks:
        first, second = (np.asarray(each) - 0.25 for each in marks)
        whole += float(np.mean(first))
        variance += float(np.var(second - found.share * first)) / len(first)
    width = 2 * 1.96 * variance**0.5 / whole
    assert found.interval[1] - found.interval[0] == pytest.approx(width, rel=0.05)


def test_the_same_answers_have_no_interval() -> None:
    assert kept_of(0.25, answered(60, 0, 0, 40)) == QualityKept(1.0)
    assert kept_of(0.25, answered(5, 0, 0, 0)) == QualityKept(1.0)


def test_tasks_of_other_values_than_the_mean_of_their_marks() -> None:
    """A group that weighs its tasks equally moves as its questions do together."""
    marks = answered(100, 60, 20, 60)
    found = quality_kept({"g": ChanceScore(0.7, 0.25, 0.01)}, {"g": 0.5}, marks={"g": marks})
    assert found is not None
    assert found.interval is not None
    assert found.share == pytest.approx(0.25 / 0.45)
    assert found.interval[0] < found.share < found.interval[1]


def test_no_interval_where_the_original_may_be_at_chance() -> None:
    """146 of 500 where 125 are luck: more than two standard errors, and no share is sure."""
    marks = answered(100, 46, 30, 324)
    original = ChanceScore(0.292, 0.25, float(np.std(marks[0])) / 500**0.5)
    assert original.is_above_chance
    found = quality_kept({"a": original}, {"a": 0.26}, marks={"a": marks})
    assert found is not None
    assert found.interval is None


def test_no_interval_without_the_marks_of_each_task_that_counts() -> None:
    marks = {"a": answered(50, 25, 0, 25)}
    result = {"a": 0.5, "b": 0.55}
    found = quality_kept(ORIGINAL, result, marks=marks)
    assert found is not None
    assert found.interval is None
    assert found.share == pytest.approx(0.5)
    in_doubt = {**ORIGINAL, "b": ChanceScore(0.51, 0.5, 0.02)}
    counted = quality_kept(in_doubt, result, marks=marks)
    assert counted is not None
    assert counted.interval is not None
