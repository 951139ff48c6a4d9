"""The sizes that a search proposes: they meet the budget, and none of less cost does."""

import dataclasses
import itertools
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures import Layout
from regrow.architectures.assembled import class_shapes
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.meta_check import find_problem
from regrow.common.errors import UserError
from regrow.surgery.budget import parameter_budget
from regrow.surgery.search import candidates
from regrow.surgery.search.axes import SearchAxis, combined, keeps_enough, search_axes
from regrow.surgery.search.candidates import best_candidates, predicted_increase
from regrow.surgery.search.curves import CostCurve, cost_curve
from tests.cuts.random_cuts import TINY
from tests.pipeline.test_proposal import resized_config
from tests.tiny import tiny_layout, tiny_shapes

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]


def costs_of(layout: Layout, weights: dict[str, float]) -> list[tuple[SearchAxis, CostCurve]]:
    """Costs of weight * (cut share)**2; axes without a weight have 1."""
    found = []
    for axis in search_axes(layout):
        shares = [axis.share(probe) for probe in axis.probes()]
        losses = [weights.get(axis.name, 1.0) * (1 - share) ** 2 for share in shares]
        found.append((axis, cost_curve(shares, losses)))
    return found


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(LAYOUTS), st.floats(0.25, 0.99), st.integers(0, 2**16))
def test_any_budget_is_met_or_refused(layout: Layout, share: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    names = [axis.name for axis in search_axes(layout)]
    weights = dict(zip(names, torch.rand(len(names), generator=generator).tolist(), strict=True))
    limit = int(layout.parameters() * share)
    budget = parameter_budget(layout, limit)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidates, "_MOST_COMBINATIONS", 5_000)
        try:
            found = best_candidates(layout, costs_of(layout, weights), budget, 3)
        except UserError as error:
            least = int(re.findall(r"[\d,]+$", str(error))[0].replace(",", ""))
            assert limit < least
            attainable = parameter_budget(layout, least)
            [smallest] = best_candidates(layout, costs_of(layout, weights), attainable, 1)
            assert layout.parameters(smallest.sizes) <= least
            return
    assert 1 <= len(found) <= 3
    assert [each.increase for each in found] == sorted(each.increase for each in found)
    for each in found:
        assert layout.parameters(each.sizes) == each.amount <= limit
        assert all(size < layout.sizes[name] for name, size in each.sizes.items())
        layout.check_sizes(each.sizes)
        config = resized_config(layout, dict(each.sizes))
        architecture = layout.blueprint.architectures[0]
        shapes = class_shapes(layout.blueprint, tiny_shapes(layout.blueprint, config))
        assert find_problem(config, architecture, shapes) is None


@pytest.mark.parametrize("layout", [tiny_layout(LLAMA, 1), tiny_layout(GPT_NEOX)])
def test_nothing_that_meets_the_budget_costs_less(layout: Layout) -> None:
    costs = costs_of(layout, {"layer": 0.7, "ffn": 0.4})
    budget = parameter_budget(layout, int(layout.parameters() * 0.55))
    [best] = best_candidates(layout, costs, budget, 1)
    least = min(
        predicted_increase(layout, costs, sizes)
        for options in itertools.product(*(axis.options for axis, _ in costs))
        if keeps_enough(layout, sizes := combined(layout, options))
        and layout.size_problem(sizes) is None
        and layout.parameters(sizes) <= budget.limit
    )
    assert best.increase == pytest.approx(least)
    assert predicted_increase(layout, costs, best.sizes) == pytest.approx(best.increase)


def test_too_many_combinations_are_thinned_out_and_improved(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = tiny_layout(LLAMA)
    costs = costs_of(layout, {})
    budget = parameter_budget(layout, int(layout.parameters() * 0.6))
    [best] = best_candidates(layout, costs, budget, 1)
    monkeypatch.setattr(candidates, "_MOST_COMBINATIONS", 600)
    [thinned] = best_candidates(layout, costs, budget, 1)
    assert thinned.amount <= budget.limit
    assert best.increase <= thinned.increase < best.increase + 0.05


def test_what_costs_nothing_is_cut() -> None:
    layout = tiny_layout(LLAMA)
    costs = costs_of(layout, {"ffn": 0.0})
    budget = parameter_budget(layout, layout.parameters({"ffn": 6}))
    [best] = best_candidates(layout, costs, budget, 1)
    assert (best.sizes, best.increase) == ({"ffn": 6}, 0)


def test_stacks_get_sizes_of_their_own() -> None:
    layout = tiny_layout(T5GEMMA)
    costs = costs_of(layout, {"encoder.ffn": 0.01, "decoder.ffn": 9.0})
    budget = parameter_budget(layout, int(layout.parameters() * 0.97))
    [best] = best_candidates(layout, costs, budget, 1)
    assert best.sizes.keys() == {"encoder.ffn"}


@pytest.mark.parametrize("most", [500_000, 3_000], ids=["all", "thinned"])
def test_candidates_differ_visibly(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(candidates, "_MOST_COMBINATIONS", most)
    # With a vocabulary as of a real model, neighbours differ by a hundredth.
    small = tiny_layout(LLAMA, 1)
    layout = dataclasses.replace(small, sizes={**small.sizes, "vocab": 49_152})
    budget = parameter_budget(layout, layout.parameters() // 2)
    found = best_candidates(layout, costs_of(layout, {}), budget, 4)
    assert len(found) == 4
    for one, other in itertools.combinations(found, 2):
        assert any(
            abs(one.sizes.get(name, size) - other.sizes.get(name, size)) >= 0.1 * size
            for name, size in layout.sizes.items()
        )
