"""Choose sizes under a budget of parameters.

All proposed sizes are accepted by the model class and fit hardware tiles. Parameters are counted
exactly. The cost of a choice estimates how much it harms the model: depth costs less than width,
and the vocabulary least (OpenBA-V2, tables 1 and 3; benchmarks/scores.py). The cost of an axis
grows faster the more of it is cut, so cuts are spread over the axes.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError

_COST_WEIGHTS: Mapping[str, float] = {
    "layer": 1.0, "ffn": 1.0, "hidden": 3.0, "head": 1.5, "vocab": 0.15,
}  # fmt: skip
_MIN_SHARE: Mapping[str, float] = {
    "layer": 0.4, "ffn": 0.3, "hidden": 0.4, "head": 0.3, "vocab": 0.15,
}  # fmt: skip
_MIN_TOKENS = 4_096
_DEPTH_STEP = 0.2
"""The largest share of layers that one stage drops; the stages of the report drop 9 to 17%."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage: the sizes after it by axis, and the exact number of parameters after it."""

    name: str
    sizes: Mapping[str, int]
    parameters: int


def plan_sizes(layout: Layout, budget: int, uncut: frozenset[str] = frozenset()) -> dict[str, int]:
    """The sizes of lowest cost with at most `budget` parameters, by axis; only axes that are cut.

    `uncut`: kinds of axes that stay whole.

    Raises UserError if no choice that keeps a minimum share of each axis is small enough.
    """
    if layout.blueprint.vocabulary_only:
        raise UserError(
            f"{layout.blueprint.model_type}: has no blueprint, so only its vocabulary can be cut; "
            "regrow vocab plan says to what size"
        )
    original = layout.parameters()
    if budget >= original:
        raise UserError(
            f"the model has {original:,} parameters; ask for fewer",
            key="params",
            value=f"{budget:,}",
        )
    best: tuple[float, int, dict[str, int]] | None = None
    minimum = original
    for widths in _width_choices(layout, uncut):
        shallowest = layout.parameters(_shallowest(layout, widths))
        minimum = min(minimum, shallowest)
        if shallowest > budget:
            continue
        width_cost = _cost(layout, widths)
        if best is not None and width_cost >= best[0]:
            continue
        sizes = _deepest(layout, widths, budget)
        if sizes is None:
            continue
        depths = {name: size for name, size in sizes.items() if name not in widths}
        cost = width_cost + _cost(layout, depths)
        key = (cost, -layout.parameters(sizes))
        if best is None or key < best[:2]:
            best = (*key, sizes)
    if best is None:
        raise UserError(
            f"too few for this model; the least that keeps a share of every axis is {minimum:,}",
            key="params",
            value=f"{budget:,}",
        )
    return {name: size for name, size in best[2].items() if size < layout.sizes[name]}


def plan_stages(layout: Layout, sizes: Mapping[str, int]) -> list[PlannedStage]:
    """The stages to these sizes: depth in steps, then width, then the vocabulary.

    This is the order of the OpenBA-V2 report (table 1).
    """
    steps: list[tuple[str, dict[str, int]]] = []
    layers = {n: s for n, s in sizes.items() if layout.blueprint.axis(n).kind == "layer"}
    if layers:
        steps += _depth_steps(layout, layers)
    width = {
        n: s for n, s in sizes.items() if layout.blueprint.axis(n).kind not in ("layer", "vocab")
    }
    if width:
        steps.append(("width", width))
    if "vocab" in sizes:
        steps.append(("vocabulary", {"vocab": sizes["vocab"]}))
    stages, reached = [], dict[str, int]()
    for name, stage_sizes in steps:
        reached |= stage_sizes
        stages.append(PlannedStage(name, stage_sizes, layout.parameters(reached)))
    return stages


def _depth_steps(layout: Layout, layers: Mapping[str, int]) -> list[tuple[str, dict[str, int]]]:
    count = max(
        math.ceil(math.log(size / layout.sizes[name]) / math.log(1 - _DEPTH_STEP))
        for name, size in layers.items()
    )
    depths = [
        {
            name: round(layout.sizes[name] + (size - layout.sizes[name]) * step / count)
            for name, size in layers.items()
        }
        for step in range(count + 1)
    ]
    # In a model with few layers, two steps can round to the same depth.
    steps = [after for before, after in itertools.pairwise(depths) if after != before]
    names = [f"depth {i}" for i in range(1, len(steps) + 1)] if len(steps) > 1 else ["depth"]
    return list(zip(names, steps, strict=True))


def _width_choices(layout: Layout, uncut: frozenset[str]) -> Iterator[dict[str, int]]:
    """All accepted combinations of sizes of all axes but the layers."""
    grouped: dict[str, list[Axis]] = {}
    for axis in layout.blueprint.axes:
        if axis.kind in ("vocab", "hidden", "ffn", "head") and axis.kind not in uncut:
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
    size = layout.sizes[axis.name]
    smallest = math.ceil(size * _MIN_SHARE[axis.kind])
    if axis.kind == "vocab":
        smallest = max(smallest, min(size, _MIN_TOKENS))
    step = _step(layout, axis)
    sizes = [n for n in range(step, size, step) if n >= smallest]
    while len(sizes) > 24:
        sizes = sizes[::-2][::-1]
    return [*sizes, size]


def _step(layout: Layout, axis: Axis) -> int:
    """The step between proposed sizes of an axis.

    Query heads change by whole groups, a vocabulary by 1,024 or 64 tokens. Widths change by a
    hardware tile: 64 to 256, and less in small models.
    """
    size = layout.sizes[axis.name]
    if axis.kind == "head":
        return size // layout.sizes[axis.groups] if axis.groups else 1
    if axis.kind == "vocab":
        tile = 1_024 if size >= 16_384 else 64
    else:
        tile = next((tile for tile in (256, 128, 64, 32, 8) if size >= tile * 24), 1)
    return math.lcm(tile, axis.multiple)


def _nearest(layout: Layout, axis: Axis, size: float) -> int:
    """The multiple of the step that is nearest to `size`."""
    step = _step(layout, axis)
    return min(layout.sizes[axis.name], max(step, round(size / step) * step))


def _layers(layout: Layout) -> list[Axis]:
    return [axis for axis in layout.blueprint.axes if axis.kind == "layer"]


def _deepest(layout: Layout, widths: Mapping[str, int], budget: int) -> dict[str, int] | None:
    """These widths with the most layers that fit the budget; each stack keeps the same share.

    None if too few layers fit.
    """
    axes = _layers(layout)
    longest = max(layout.sizes[axis.name] for axis in axes)
    for keep in range(longest, math.ceil(longest * _MIN_SHARE["layer"]) - 1, -1):
        depths = {a.name: max(1, round(layout.sizes[a.name] * keep / longest)) for a in axes}
        if layout.parameters({**widths, **depths}) <= budget:
            return {**widths, **depths}
    return None


def _shallowest(layout: Layout, widths: Mapping[str, int]) -> dict[str, int]:
    """These widths with the fewest layers that may be kept."""
    axes = _layers(layout)
    depths = {a.name: max(1, math.ceil(layout.sizes[a.name] * _MIN_SHARE["layer"])) for a in axes}
    return {**widths, **depths}


def _cost(layout: Layout, sizes: Mapping[str, int]) -> float:
    """The cost of these sizes: the sum over axes of weight * cut_share**2 / kept_share."""
    total = 0.0
    for name, size in sizes.items():
        kind = layout.blueprint.axis(name).kind
        if kind in _COST_WEIGHTS:
            kept = size / layout.sizes[name]
            total += _COST_WEIGHTS[kind] * (1 - kept) ** 2 / kept
    return total
