"""A plan: a cut divided into stages, and its recipe."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow.architectures import Layout

if TYPE_CHECKING:
    from regrow.surgery.search.search import SizeSearch

_DEPTH_STEP = 0.2
"""The largest share of layers that one stage drops; the stages of the report drop 9 to 17%."""


@dataclass(frozen=True)
class PlannedStage:
    """One stage: the sizes after it by axis, and the exact number of parameters after it."""

    name: str
    sizes: Mapping[str, int]
    parameters: int


@dataclass(frozen=True)
class Plan:
    """Stages that meet a budget, and their recipe.

    Attributes:
        model: The model as the user named it.
        parameters_before, parameters: Of the original and of the result.
        bytes_before, nbytes: Bytes of their weights.
        stages: The sizes after each stage.
        recipe: The recipe, YAML text.
        notes: What the plan does not cut, and why; and what a run will add.
        search: The measured costs and candidates; None if the costs are fixed.
        recovery_tokens: Tokens of recovery, by stage.
        recovery_seconds: The estimated time of each recovery on this machine; empty if it was not
            estimated, since all take seconds.
    """

    model: str
    parameters_before: int
    parameters: int
    bytes_before: int
    nbytes: int
    stages: tuple[PlannedStage, ...]
    recipe: str
    notes: tuple[str, ...] = ()
    search: "SizeSearch | None" = None
    recovery_tokens: tuple[int, ...] = ()
    recovery_seconds: tuple[float, ...] = ()


def plan_stages(layout: Layout, sizes: Mapping[str, int]) -> list[PlannedStage]:
    """The stages to these sizes: one cut if it is refitted, else several.

    With a refit, stages were hardly better, or worse, at equal tokens (docs/benchmarks.md, Order
    of cuts). Without one: depth in steps, then width, then the vocabulary, as in the OpenBA-V2
    report (table 1).
    """
    if layout.blueprint.solvable:
        return [PlannedStage("cut", dict(sizes), layout.parameters(sizes))]
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
