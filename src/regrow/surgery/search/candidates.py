"""The sizes with the least predicted cost among all that meet a budget.

The cost of a combination is predicted as the sum of what its axes cost alone. Axes whose sizes
depend on each other form a block of accepted combinations, and one choice from each block gives
sizes that the architecture accepts. Half a million combinations or fewer are all computed, so the
best one is found. Of more, a part is, and the best of these is improved two blocks at a time; what
is found then can cost a percent more than the best.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Layout
from regrow.architectures.linked import linked_axes
from regrow.surgery.budget import Budget
from regrow.surgery.search.axes import SearchAxis, combined, keeps_enough
from regrow.surgery.search.curves import CostCurve

_MOST_COMBINATIONS = 500_000
"""Combinations that are computed at once. Beyond it, each block is thinned out, and the best
combination is then improved two blocks at a time."""
_DIFFERENT = 0.1
"""Two candidates differ if some axis keeps another share of its size, by at least this much."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """Sizes that meet the budget.

    Attributes:
        sizes: Of the axes that are cut, by axis.
        amount: What they need of the budget: parameters, bytes, or seconds per token.
        increase: The predicted increase of the loss, in bits per byte.
    """

    sizes: Mapping[str, int]
    amount: float
    increase: float


@dataclass(frozen=True, eq=False)
class _Block:
    """Accepted combinations of axes whose sizes depend on each other, and their costs.

    Attributes:
        sizes: By axis, [combinations].
        costs: [combinations].
    """

    sizes: Mapping[str, Ints]
    costs: Floats

    def at(self, index: Ints) -> "_Block":
        return _Block({name: each[index] for name, each in self.sizes.items()}, self.costs[index])

    def __len__(self) -> int:
        return len(self.costs)


def best_candidates(
    layout: Layout,
    costs: Sequence[tuple[SearchAxis, CostCurve]],
    budget: Budget,
    count: int,
) -> list[Candidate]:
    """Up to `count` combinations that meet the budget, which differ, the cheapest first.

    Raises UserError if no combination meets the budget.
    """
    blocks = [_by_amount(block, budget) for block in _blocks(layout, costs)]
    thinned = _thin(blocks)
    sizes, total = _product(thinned)
    amounts = np.broadcast_to(np.asarray(budget.amount(sizes), dtype=np.float64), total.shape)
    fitting = np.flatnonzero(amounts <= budget.limit)
    if not len(fitting):
        least = _product([block.at(np.array([len(block) - 1])) for block in blocks])[0]
        smallest = float(np.min(budget.amount(least)))
        raise budget.too_tight(min(smallest, float(amounts.min())))
    # Of equal costs, the largest model.
    order = fitting[np.lexsort((-amounts[fitting], total[fitting]))]
    is_thinned = sum(map(len, thinned)) < sum(map(len, blocks))
    chosen: list[dict[str, int]] = []
    while len(order) and len(chosen) < count:
        found = {name: int(each[order[0]]) for name, each in sizes.items()}
        better = _improved(blocks, budget, found) if is_thinned else found
        # Two that differ can become one when they are improved.
        is_new = all(_differs(layout, better, other).any() for other in chosen)
        chosen.append(better if is_new else found)
        remaining = {name: each[order] for name, each in sizes.items()}
        differs = [_differs(layout, remaining, other) for other in (found, chosen[-1])]
        order = order[np.all(differs, axis=0)]
    candidates = []
    for found in chosen:
        cut = {name: size for name, size in found.items() if size < layout.sizes[name]}
        cost = sum(float(block.costs[_place(block, found)]) for block in blocks)
        candidates.append(Candidate(cut, float(budget.amount(cut)), cost))
    return sorted(candidates, key=lambda each: each.increase)


def predicted_increase(
    layout: Layout, costs: Sequence[tuple[SearchAxis, CostCurve]], sizes: Mapping[str, int]
) -> float:
    """The predicted increase of the loss at any sizes.

    Below the smallest size of an axis that was measured, its cost is taken.
    """
    total = 0.0
    for axis, curve in costs:
        share = axis.share_of(layout, sizes)
        total += float(curve.at(np.array([max(share, curve.shares[0])]))[0])
    return total


def _blocks(layout: Layout, costs: Sequence[tuple[SearchAxis, CostCurve]]) -> Iterator[_Block]:
    for linked in linked_axes(layout):
        inside = [(axis, curve) for axis, curve in costs if axis.lead in linked]
        if not inside:
            continue
        alone = [
            curve.at(np.array([axis.share(option) for option in axis.options]))
            for axis, curve in inside
        ]
        rows, total = [], []
        for places in itertools.product(*(range(len(axis.options)) for axis, _ in inside)):
            options = [axis.options[at] for (axis, _), at in zip(inside, places, strict=True)]
            sizes = combined(layout, options)
            if keeps_enough(layout, sizes) and layout.size_problem(sizes) is None:
                rows.append(sizes)
                total.append(sum(cost[at] for cost, at in zip(alone, places, strict=True)))
        names = rows[0]
        arrays = {name: np.array([row[name] for row in rows], dtype=np.int64) for name in names}
        yield _Block(arrays, np.array(total, dtype=np.float64))


def _by_amount(block: _Block, budget: Budget) -> _Block:
    """The block from the largest to the smallest amount; all other axes are whole."""
    amounts = np.broadcast_to(np.asarray(budget.amount(block.sizes), np.float64), len(block))
    return block.at(np.argsort(-amounts, kind="stable"))


def _thin(blocks: Sequence[_Block]) -> list[_Block]:
    """Blocks with fewer combinations, the first and the last among them, if there are too many."""
    thinned = list(blocks)
    while math.prod(map(len, thinned)) > _MOST_COMBINATIONS:
        longest = max(range(len(thinned)), key=lambda at: len(thinned[at]))
        size = len(thinned[longest])
        thinned[longest] = thinned[longest].at(
            np.unique(np.linspace(0, size - 1, size // 2 + 1).round().astype(np.int64))
        )
    return thinned


def _product(blocks: Sequence[_Block]) -> tuple[dict[str, Ints], Floats]:
    """All combinations of one choice from each block: sizes by axis, and costs, [combinations]."""
    places = np.indices([len(block) for block in blocks]).reshape(len(blocks), -1)
    sizes: dict[str, Ints] = {}
    total = np.zeros(places.shape[1])
    for block, at in zip(blocks, places, strict=True):
        sizes |= {name: each[at] for name, each in block.sizes.items()}
        total += block.costs[at]
    return sizes, total


def _improved(blocks: Sequence[_Block], budget: Budget, sizes: dict[str, int]) -> dict[str, int]:
    """Better sizes than these, found by choosing two blocks anew and keeping the others."""
    best = sizes
    for pair in itertools.combinations(range(len(blocks)), 2):
        chosen = [
            block if at in pair else block.at(np.array([_place(block, best)]))
            for at, block in enumerate(blocks)
        ]
        found, total = _product(_thin(chosen))
        amounts = np.broadcast_to(np.asarray(budget.amount(found), np.float64), total.shape)
        fitting = np.flatnonzero(amounts <= budget.limit)
        now = sum(float(block.costs[_place(block, best)]) for block in blocks)
        if len(fitting) and total[fitting].min() < now:
            at = fitting[np.argmin(total[fitting])]
            best = {name: int(each[at]) for name, each in found.items()}
    return best


def _place(block: _Block, sizes: Mapping[str, int]) -> int:
    """The cheapest combination of a block that has these sizes."""
    same = np.all([each == sizes[name] for name, each in block.sizes.items()], axis=0)
    places = np.flatnonzero(same)
    return int(places[np.argmin(block.costs[places])])


def _differs(layout: Layout, sizes: Mapping[str, Any], other: Mapping[str, int]) -> Any:
    """Whether sizes of one model, or of many [models], differ visibly from those of another."""
    return np.any(
        [
            np.abs(sizes[name] - size) >= _DIFFERENT * layout.sizes[name]
            for name, size in other.items()
        ],
        axis=0,
    )
