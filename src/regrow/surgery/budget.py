"""Sizes under a budget of parameters: what the class accepts, what hardware likes, exact counts.

The cost of a choice is a guess at what it does to the model: depth costs less than width and the
vocabulary least (OpenBA-V2, tables 1 and 3; our own scores benchmark), and the last part of
anything costs more than the first, so cuts spread over the axes.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError

_WEIGHTS: Mapping[str, float] = {
    "layer": 1.0, "ffn": 1.0, "hidden": 3.0, "head": 1.5, "vocab": 0.15,
}  # fmt: skip
_LEAST_KEPT: Mapping[str, float] = {
    "layer": 0.4, "ffn": 0.3, "hidden": 0.4, "head": 0.3, "vocab": 0.15,
}  # fmt: skip
_LEAST_TOKENS = 4_096
_DEPTH_STEP = 0.2
"""Largest share of the layers that one stage drops; the report's stages drop 9 to 17%."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage: sizes by axis that remain, and exactly how many parameters."""

    name: str
    sizes: Mapping[str, int]
    parameters: int


def plan_sizes(layout: Layout, budget: int, uncut: frozenset[str] = frozenset()) -> dict[str, int]:
    """The cheapest accepted sizes with at most `budget` parameters, by axis.

    `uncut`: kinds of axes that stay whole.
    Raises UserError where nothing that keeps a sensible share of each axis is small enough.
    """
    if layout.blueprint.vocabulary_only:
        raise UserError(
            f"{layout.blueprint.model_type}: has no blueprint, so only its vocabulary can be cut; "
            "regrow vocab plan says to what size"
        )
    whole = layout.parameters()
    if budget >= whole:
        raise UserError(
            f"the model has {whole:,} parameters; ask for fewer", key="params", value=f"{budget:,}"
        )
    best: tuple[float, int, dict[str, int]] | None = None
    least = whole
    for sizes in _width_choices(layout, uncut):
        smallest = layout.parameters(_least(layout, sizes))
        least = min(least, smallest)
        if smallest > budget:
            continue
        rest = _cost(layout, sizes)
        if best is not None and rest >= best[0]:
            continue
        found = _deepest(layout, sizes, budget)
        if found is None:
            continue
        cost = rest + _cost(layout, {k: v for k, v in found.items() if k not in sizes})
        key = (cost, -layout.parameters(found))
        if best is None or key < best[:2]:
            best = (*key, found)
    if best is None:
        raise UserError(
            f"too few for this model; the least that keeps a share of every axis is {least:,}",
            key="params",
            value=f"{budget:,}",
        )
    return {name: size for name, size in best[2].items() if size < layout.sizes[name]}


def plan_stages(layout: Layout, sizes: Mapping[str, int]) -> list[PlannedStage]:
    """Depth first, in steps, then width, then the vocabulary, as in the report's table 1."""
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
    stages, now = [], dict[str, int]()
    for name, cut in steps:
        now |= cut
        stages.append(PlannedStage(name, cut, layout.parameters(now)))
    return stages


def _depth_steps(layout: Layout, layers: Mapping[str, int]) -> list[tuple[str, dict[str, int]]]:
    count = max(
        math.ceil(math.log(size / layout.sizes[name]) / math.log(1 - _DEPTH_STEP))
        for name, size in layers.items()
    )
    cuts = [
        {
            name: round(layout.sizes[name] + (size - layout.sizes[name]) * step / count)
            for name, size in layers.items()
        }
        for step in range(count + 1)
    ]
    # In a model of few layers two steps can round to the same.
    steps = [after for before, after in itertools.pairwise(cuts) if after != before]
    names = [f"depth {i}" for i in range(1, len(steps) + 1)] if len(steps) > 1 else ["depth"]
    return list(zip(names, steps, strict=True))


def _width_choices(layout: Layout, uncut: frozenset[str]) -> Iterator[dict[str, int]]:
    """All combinations of sizes but for depth."""
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
    """Sizes of one kind in all stacks at once, each stack by the same share."""
    first = layout.sizes[axes[0].name]
    for size in _candidates(layout, axes[0]):
        sizes: dict[str, int] = {}
        for axis in axes:
            mine = layout.sizes[axis.name]
            wanted = mine if size == first else _nearest(layout, axis, mine * size / first)
            sizes[axis.name] = wanted
            if axis.groups:
                group = mine // layout.sizes[axis.groups]
                sizes[axis.groups] = wanted // group
        yield sizes


def _candidates(layout: Layout, axis: Axis) -> list[int]:
    size = layout.sizes[axis.name]
    least = math.ceil(size * _LEAST_KEPT[axis.kind])
    if axis.kind == "vocab":
        least = max(least, min(size, _LEAST_TOKENS))
    step = _step(layout, axis)
    sizes = [n for n in range(step, size, step) if n >= least]
    while len(sizes) > 24:
        sizes = sizes[::-2][::-1]
    return [*sizes, size]


def _step(layout: Layout, axis: Axis) -> int:
    """Sizes that hardware likes: whole tiles of 64, or 8 and less in small models."""
    size = layout.sizes[axis.name]
    if axis.kind == "head":
        return size // layout.sizes[axis.groups] if axis.groups else 1
    if axis.kind == "vocab":
        wanted = 1_024 if size >= 16_384 else 64
    else:
        wanted = next((tile for tile in (256, 128, 64, 32, 8) if size >= tile * 24), 1)
    return math.lcm(wanted, axis.multiple)


def _nearest(layout: Layout, axis: Axis, wanted: float) -> int:
    step = _step(layout, axis)
    return min(layout.sizes[axis.name], max(step, round(wanted / step) * step))


def _layers(layout: Layout) -> list[Axis]:
    return [axis for axis in layout.blueprint.axes if axis.kind == "layer"]


def _deepest(layout: Layout, sizes: Mapping[str, int], budget: int) -> dict[str, int] | None:
    """The most layers that fit beside these widths, every stack cut by the same share."""
    axes = _layers(layout)
    longest = max(layout.sizes[axis.name] for axis in axes)
    for keep in range(longest, math.ceil(longest * _LEAST_KEPT["layer"]) - 1, -1):
        depths = {a.name: max(1, round(layout.sizes[a.name] * keep / longest)) for a in axes}
        if layout.parameters({**sizes, **depths}) <= budget:
            return {**sizes, **depths}
    return None


def _least(layout: Layout, sizes: Mapping[str, int]) -> dict[str, int]:
    axes = _layers(layout)
    depths = {a.name: max(1, math.ceil(layout.sizes[a.name] * _LEAST_KEPT["layer"])) for a in axes}
    return {**sizes, **depths}


def _cost(layout: Layout, sizes: Mapping[str, int]) -> float:
    """Grows with what goes, and steeper the more has gone: weight * gone**2 / kept."""
    total = 0.0
    for name, size in sizes.items():
        kind = layout.blueprint.axis(name).kind
        if kind in _WEIGHTS:
            kept = size / layout.sizes[name]
            total += _WEIGHTS[kind] * (1 - kept) ** 2 / kept
    return total
