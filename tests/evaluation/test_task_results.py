import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.evaluation.task_results import ChanceScore, counted_once, quality_kept

ORIGINAL = {"a": ChanceScore(0.75, 0.25, 0.02), "b": ChanceScore(0.60, 0.50, 0.02)}


def test_the_quality_that_is_kept_is_over_chance() -> None:
    assert quality_kept(ORIGINAL, {"a": 0.75, "b": 0.60}) == pytest.approx(1)
    assert quality_kept(ORIGINAL, {"a": 0.25, "b": 0.50}) == pytest.approx(0)
    assert quality_kept(ORIGINAL, {"a": 0.55, "b": 0.56}) == pytest.approx(0.6)
    assert quality_kept({}, {}) is None


@pytest.mark.parametrize(
    "in_doubt",
    [ChanceScore(0.4, 0.5, 0.01), ChanceScore(0.53, 0.5, 0.02), ChanceScore(0.9, 0.5, None)],
)
def test_what_may_be_above_chance_by_luck_does_not_count(in_doubt: ChanceScore) -> None:
    lost = {"a": 0.55, "b": 0.56, "in doubt": 0.9}
    assert quality_kept({**ORIGINAL, "in doubt": in_doubt}, lost) == pytest.approx(0.6)
    assert quality_kept({"in doubt": in_doubt}, lost) is None


def test_a_group_counts_once_in_place_of_its_tasks_and_of_groups_inside_it() -> None:
    groups = {"small": ("x",), "large": ("x", "y"), "other": ("y", "z")}
    assert counted_once(("piqa", "x", "y", "z"), groups) == ["large", "piqa", "z"]
    assert counted_once(("piqa", "x"), {}) == ["piqa", "x"]


def test_the_quality_of_a_group_is_that_of_one_task() -> None:
    group = {"g": ChanceScore(0.35, 0.25, 0.02), "x": ChanceScore(0.45, 0.25, 0.02)}
    result = {"a": 0.75, "b": 0.60, "g": 0.25, "x": 0.25}
    groups = {"g": ("x", "y"), "its chance is not known": ("a", "b")}
    assert quality_kept({**ORIGINAL, **group}, result, groups) == pytest.approx(0.6 / 0.7)


@given(st.dictionaries(st.text(min_size=2), st.sets(st.sampled_from("abcdef"), min_size=1)))
def test_each_task_counts_once(groups: dict[str, set[str]]) -> None:
    members = {name: tuple(tasks) for name, tasks in groups.items()}
    found = counted_once("abcdef", members)
    counted = [task for name in found for task in members.get(name, (name,))]
    assert sorted(counted) == list("abcdef")
