"""Choose sizes under a budget by fixed costs, where nothing is measured.

All proposed sizes are accepted by the model class and fit hardware tiles. The cost of a choice
estimates how much it harms the model after a refit. On SmolLM2-135M and a small OpenBA
(docs/benchmarks.md, "Plans by measured costs") the cost of an axis grew as the share that is cut
over the share that is kept. For equal shares hidden cost most, then layers, then heads and ffn. The
cost of a vocabulary is taken to follow from how many tokens are left, whatever the original has.
"""

import itertools
import math
from collections.abc import Iterator, Mapping

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError
from regrow.cuts.rotatable import rotation_problem
from regrow.surgery.allowed_sizes import LEAST_SHARE, allowed_sizes, size_step
from regrow.surgery.budget import Budget

_COST_WEIGHTS: Mapping[str, float] = {
    "layer": 1.0, "ffn": 0.35, "expert": 0.35, "hidden": 3.5, "head": 0.35, "kv_head": 0.35,
}  # fmt: skip
"""That of key-value heads is on top of the query heads that go with them: 0.7 together. Experts
were not measured, and have the weight of ffn."""
_ROTATED_HIDDEN = 1.5
"""The weight of hidden where a cut can rotate it (surgery/rotation.py)."""
_VOCABULARY_COST = 8_192
"""Times 1 / tokens: what a vocabulary of so many tokens costs, where half of the layers cost 1."""


def plan_sizes(
    layout: Layout, budget: Budget, uncut: frozenset[str] = frozenset()
) -> dict[str, int]:
    """The sizes of lowest cost that meet a budget, by axis; only axes that are cut.

    `uncut`: kinds of axes that stay whole.

    Raises UserError if no choice that keeps a minimum share of each axis is small enough.
    """
    if layout.blueprint.vocabulary_only:
        name = layout.blueprint.architectures[0]
        raise UserError(
            f"{name} has no blueprint, so only its vocabulary can be cut; regrow vocab plan says "
            "to what size"
        )
    budget.check()
    best: tuple[float, int, dict[str, int]] | None = None
    least = budget.amount({})
    for widths in _width_choices(layout, uncut):
        shallowest = budget.amount(_shallowest(layout, widths))
        least = min(least, shallowest)
        if shallowest > budget.limit:
            continue
        width_cost = _cost(layout, widths)
        if best is not None and width_cost >= best[0]:
            continue
        sizes = _deepest(layout, widths, budget)
        if sizes is None:
            continue
        depths = {name: size for name, size in sizes.items() if name not in widths}
        cost = width_cost + _cost(layout, depths)
        key = (cost, -budget.amount(sizes))
        if best is None or key < best[:2]:
            best = (*key, sizes)
    if best is None:
        raise budget.too_tight(least)
    return {name: size for name, size in best[2].items() if size < layout.sizes[name]}


def _width_choices(layout: Layout, uncut: frozenset[str]) -> Iterator[dict[str, int]]:
    """All accepted combinations of sizes of all axes but the layers."""
    grouped: dict[str, list[Axis]] = {}
    for axis in layout.blueprint.axes:
        if axis.kind in ("vocab", "hidden", "ffn", "expert", "head") and axis.kind not in uncut:
            grouped.setdefault(axis.kind, []).append(axis)
    per_kind = [list(_sizes_of_kind(layout, axes)) for axes in grouped.values()]
    for parts in itertools.product(*per_kind):
        sizes: dict[str, int] = {}
        for part in parts:
            sizes |= part
        if layout.size_problem(sizes) is None:
            yield sizes


def _sizes_of_kind(layout: Layout, axes: list[Axis]) -> Iterator[dict[str, int]]:
    """Sizes of one kind of axis in all stacks; each stack keeps the same share."""
    first = layout.sizes[axes[0].name]
    for size in _candidates(layout, axes[0]):
        sizes: dict[str, int] = {}
        for axis in axes:
            old = layout.sizes[axis.name]
            new = old if size == first else _nearest(layout, axis, old * size / first)
            sizes[axis.name] = new
            if axis.groups:
                group = old // layout.sizes[axis.groups]
                sizes[axis.groups] = new // group
        yield sizes


def _candidates(layout: Layout, axis: Axis) -> list[int]:
    *sizes, whole = allowed_sizes(layout, axis)
    while len(sizes) > 24:
        sizes = sizes[::-2][::-1]
    return [*sizes, whole]


def _nearest(layout: Layout, axis: Axis, size: float) -> int:
    """The multiple of the step that is nearest to `size`."""
    step = size_step(layout, axis)
    return min(layout.sizes[axis.name], max(step, round(size / step) * step))


def _layers(layout: Layout) -> list[Axis]:
    return [axis for axis in layout.blueprint.axes if axis.kind == "layer"]


def _deepest(layout: Layout, widths: Mapping[str, int], budget: Budget) -> dict[str, int] | None:
    """These widths with the most layers that fit the budget; each stack keeps the same share.

    None if too few layers fit.
    """
    axes = _layers(layout)
    longest = max(layout.sizes[axis.name] for axis in axes)
    for keep in range(longest, math.ceil(longest * LEAST_SHARE["layer"]) - 1, -1):
        depths = {a.name: max(1, round(layout.sizes[a.name] * keep / longest)) for a in axes}
        if budget.amount({**widths, **depths}) <= budget.limit:
            return {**widths, **depths}
    return None


def _shallowest(layout: Layout, widths: Mapping[str, int]) -> dict[str, int]:
    """These widths with the fewest layers that may be kept."""
    axes = _layers(layout)
    depths = {a.name: max(1, math.ceil(layout.sizes[a.name] * LEAST_SHARE["layer"])) for a in axes}
    return {**widths, **depths}


def _cost(layout: Layout, sizes: Mapping[str, int]) -> float:
    """The cost of these sizes: the sum over axes of weight * cut_share / kept_share."""
    total = 0.0
    for name, size in sizes.items():
        kind, whole = layout.blueprint.axis(name).kind, layout.sizes[name]
        if kind == "vocab":
            total += _VOCABULARY_COST * (1 / size - 1 / whole)
        elif kind in _COST_WEIGHTS:
            weight = _COST_WEIGHTS[kind]
            if kind == "hidden" and rotation_problem(layout) is None:
                weight = _ROTATED_HIDDEN
            total += weight * (whole - size) / size
    return total
