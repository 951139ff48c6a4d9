"""Shares that follow losses: always a distribution, never run away, the same in any order."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from regrow.training.mixing.dynamic_mixture import (
    OPENBA_START,
    RULES,
    DynamicMixture,
    MixtureChange,
    RuleName,
    with_floor,
)

OPENBA_LOSSES = {
    "R1": 1.154, "R2": 1.594, "S": 2.106, "X1": 1.298, "X2": 1.723, "X3": 2.151, "X4": 2.151,
}  # fmt: skip
"""The reference losses in the report's code, in nats per token."""
NAMES = tuple(OPENBA_LOSSES)
EVEN = dict.fromkeys(NAMES, 1.0)
NOTHING = dict.fromkeys(NAMES, 0.0)

rules = st.sampled_from(sorted(RULES))
losses = st.floats(0, 20)
vectors = st.fixed_dictionaries(dict.fromkeys(NAMES, losses))
starts = st.fixed_dictionaries(dict.fromkeys(NAMES, st.floats(1e-6, 1e6)))


def mixture(rule: RuleName, start: dict[str, float] | None = None) -> DynamicMixture:
    """One whose gaps are the losses themselves."""
    return DynamicMixture(RULES[rule], start or EVEN, NOTHING)


def after(mixture: DynamicMixture, *measured: dict[str, float]) -> DynamicMixture:
    for number, losses in enumerate(measured):
        mixture = mixture.updated(losses, sample=number * 100, tokens=number * 10_000)
    return mixture


def floor(rule: RuleName) -> float:
    return RULES[rule].least / len(NAMES)


@given(rules, starts, st.lists(vectors, max_size=30))
def test_shares_are_a_distribution_with_a_floor(
    rule: RuleName, start: dict[str, float], measured: list[dict[str, float]]
) -> None:
    mixed = after(mixture(rule, start), *measured)
    for change in mixed.history:
        assert math.fsum(change.shares.values()) == pytest.approx(1, abs=1e-12)
        assert min(change.shares.values()) >= floor(rule)
        assert list(change.shares) == list(NAMES)


@given(rules, st.lists(st.floats(-1e300, 1e300), min_size=7, max_size=7))
def test_no_loss_is_too_large(rule: RuleName, values: list[float]) -> None:
    mixed = after(mixture(rule), *[dict(zip(NAMES, values, strict=True))] * 3)
    assert math.fsum(mixed.shares.values()) == pytest.approx(1, abs=1e-12)
    assert min(mixed.shares.values()) >= floor(rule)


@given(starts, losses, st.integers(1, 20))
def test_equal_gaps_keep_the_stable_mixture(
    start: dict[str, float], gap: float, updates: int
) -> None:
    begun = mixture("stable", start)
    mixed = after(begun, *[dict.fromkeys(NAMES, gap)] * updates)
    assert mixed.shares == pytest.approx(begun.shares, rel=1e-9)


@given(starts, vectors, losses)
def test_equal_gaps_lead_back_to_the_start(
    start: dict[str, float], first: dict[str, float], gap: float
) -> None:
    begun = mixture("stable", start)
    mixed = after(begun, first, *[dict.fromkeys(NAMES, gap)] * 60)
    assert mixed.shares == pytest.approx(begun.shares, rel=1e-3)


@given(vectors, st.floats(-20, 20))
def test_only_differences_of_gaps_count_where_none_is_clipped(
    first: dict[str, float], more: float
) -> None:
    moved = {name: loss + more for name, loss in first.items()}
    assert after(mixture("code"), moved).shares == pytest.approx(
        after(mixture("code"), first).shares, rel=1e-9
    )


@given(rules, starts, st.lists(vectors, max_size=4), vectors, st.sampled_from(NAMES), losses)
def test_a_larger_gap_never_gets_less(
    rule: RuleName,
    start: dict[str, float],
    before: list[dict[str, float]],
    last: dict[str, float],
    part: str,
    more: float,
) -> None:
    mixed = after(mixture(rule, start), *before)
    low = mixed.updated(last, sample=1_000, tokens=0).shares
    high = mixed.updated({**last, part: last[part] + more}, sample=1_000, tokens=0).shares
    assert high[part] >= low[part] - 1e-12
    for other in NAMES:
        assert other == part or high[other] <= low[other] + 1e-12


@given(rules, st.permutations(NAMES), st.data())
def test_of_parts_that_began_alike_the_worse_gets_more(
    rule: RuleName, names: list[str], data: st.DataObject
) -> None:
    gaps = sorted(data.draw(st.lists(st.floats(0, 0.5), min_size=7, max_size=7)))
    assume(min(np.diff(gaps)) > 1e-6)
    shares = after(mixture(rule), dict(zip(names, gaps, strict=True))).shares
    ordered = [shares[name] for name in names]
    assert all(low < high for low, high in itertools.pairwise(ordered))


@given(rules, starts, st.lists(vectors, min_size=1, max_size=8), st.permutations(NAMES))
def test_the_order_of_parts_does_not_matter(
    rule: RuleName,
    start: dict[str, float],
    measured: list[dict[str, float]],
    names: list[str],
) -> None:
    def ordered(values: dict[str, float]) -> dict[str, float]:
        return {name: values[name] for name in names}

    other = DynamicMixture(RULES[rule], ordered(start), ordered(NOTHING))
    assert (
        after(other, *map(ordered, measured)).shares
        == after(mixture(rule, start), *measured).shares
    )


def plain_algorithm(clipped: bool, measured: list[dict[str, float]]) -> list[float]:
    """Algorithm 1 as it is written down, without logarithms."""
    shares = np.array([0.02, 0.02, 0.8, 0.1, 0.02, 0.02, 0.02])
    references = np.array([1.154, 1.594, 2.106, 1.298, 1.723, 2.151, 2.151])
    for losses in measured:
        gaps = np.array([losses[name] for name in NAMES]) - references
        if clipped:
            gaps = np.maximum(gaps, 0)
        shares = shares * np.exp(1.0 * gaps)
        shares = shares / shares.sum()
        shares = (1 - 1e-4) * shares + 1e-4 / 7
    return [float(share) for share in shares]


@given(st.sampled_from(["paper", "code"]), st.lists(vectors, max_size=12))
def test_the_report_and_its_code_to_the_letter(
    rule: RuleName, measured: list[dict[str, float]]
) -> None:
    mixed = after(DynamicMixture(RULES[rule], OPENBA_START, OPENBA_LOSSES), *measured)
    expected = plain_algorithm(rule == "paper", measured)
    assert [mixed.shares[name] for name in NAMES] == pytest.approx(expected, rel=1e-9)


def test_clipping_is_all_that_parts_the_report_from_its_code() -> None:
    better = {name: loss - 0.1 for name, loss in OPENBA_LOSSES.items()}
    worse = {**better, "S": 2.4}
    begun = {name: DynamicMixture(RULES[name], OPENBA_START, OPENBA_LOSSES) for name in RULES}
    assert after(begun["paper"], worse).shares["S"] == pytest.approx(0.843, abs=1e-3)
    assert after(begun["code"], worse).shares["S"] == pytest.approx(0.856, abs=1e-3)


def test_what_never_closes_takes_all_in_the_report_and_not_in_stable() -> None:
    gaps = {name: 0.1 + 0.2 * place / 6 for place, name in enumerate(NAMES)}
    paper, stable = (after(mixture(rule), *[gaps] * 20).shares for rule in ("paper", "stable"))
    longer = after(mixture("stable"), *[gaps] * 500).shares
    assert max(paper.values()) > 0.45
    assert max(longer.values()) < 0.2
    assert longer == pytest.approx(stable, rel=0.02)
    wanted = {name: math.exp(3 * gap) for name, gap in gaps.items()}
    total = sum(wanted.values())
    assert longer == pytest.approx({name: w / total for name, w in wanted.items()}, rel=1e-9)


def test_one_that_lay_at_the_floor_rises_at_once() -> None:
    behind = {**NOTHING, "S": 4.0}
    mixed = after(mixture("stable"), *[behind] * 50)
    assert mixed.shares["R1"] == pytest.approx(0.02)
    turned = mixed.updated({**NOTHING, "R1": 1.0}, sample=5_000, tokens=0).shares
    assert turned["R1"] > 0.05


def test_a_loss_that_is_no_number_moves_nothing() -> None:
    mixed = after(mixture("stable"), {**NOTHING, "S": 1.0})
    for broken in (math.nan, math.inf):
        changed = mixed.updated({**NOTHING, "R1": broken}, sample=200, tokens=5)
        assert changed.shares == mixed.shares
        assert len(changed.history) == 2


@given(rules, starts, st.lists(vectors, min_size=1, max_size=8), st.integers(0, 8))
def test_taken_up_from_json_it_goes_on_alike(
    rule: RuleName, start: dict[str, float], measured: list[dict[str, float]], killed: int
) -> None:
    whole = after(mixture(rule, start), *measured)
    kept = json.dumps(after(mixture(rule, start), *measured[:killed]).as_json())
    again = mixture(rule, start).resumed(json.loads(kept))
    for number, losses in list(enumerate(measured))[killed:]:
        again = again.updated(losses, sample=number * 100, tokens=number * 10_000)
    assert again == whole


def test_changes_are_kept_in_order() -> None:
    begun = mixture("stable")
    losses = {**NOTHING, "S": 1.0}
    mixed = begun.updated(losses, sample=100, tokens=51_200)
    assert mixed.history == (MixtureChange(100, 51_200, losses, mixed.shares),)
    assert begun.history == ()
    with pytest.raises(ValueError, match="a change at 99 after one at 100"):
        mixed.updated(NOTHING, sample=99, tokens=0)


@given(starts, st.floats(1e-6, 1 / 7 - 1e-6))
def test_raising_keeps_order_and_proportions(start: dict[str, float], least: float) -> None:
    total = math.fsum(start.values())
    shares = {name: share / total for name, share in start.items()}
    found = with_floor(shares, least)
    assert math.fsum(found.values()) == pytest.approx(1, abs=1e-12)
    assert min(found.values()) >= least
    above = [name for name in NAMES if found[name] > least]
    ratios = [found[name] / shares[name] for name in above]
    assert max(ratios) == pytest.approx(min(ratios), rel=1e-9)
    # Who is raised would be below the floor by the proportion of the others.
    assert all(
        shares[name] * ratios[0] <= least * (1 + 1e-9) for name in NAMES if name not in above
    )
    assert with_floor(found, least) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize(
    ("start", "references"),
    [
        ({"a": 1.0}, {"a": 1.0}),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0}),
        ({"a": 1.0, "b": 0.0}, {"a": 1.0, "b": 1.0}),
        ({"a": 1.0, "b": 1.0}, {"a": 1.0, "b": math.nan}),
    ],
)
def test_no_mixture(start: dict[str, float], references: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"references for a|reference 1|reference nan"):
        DynamicMixture(RULES["stable"], start, references)
