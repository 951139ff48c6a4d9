"""Hypothesis strategies for sizes that an architecture accepts, and for cuts to them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from regrow.architectures import BLUEPRINTS, Axis, Blueprint, Layout
from regrow.cuts.claims import linked_sizes
from regrow.cuts.cut import AxisCut, Cut

TINY: list[tuple[Blueprint, int]] = [
    (blueprint, number) for blueprint in BLUEPRINTS for number in range(len(blueprint.tiny))
]
TINY_IDS = [f"{blueprint.model_type}-{number}" for blueprint, number in TINY]
MODEL = "sha256:" + "0" * 64


@st.composite
def accepted_sizes(draw: st.DrawFn, layout: Layout) -> dict[str, int]:
    """A size for every axis, equal or smaller, that the layout accepts together."""
    sizes: dict[str, int] = {}
    for choices in linked_sizes(layout):
        sizes |= draw(st.sampled_from(choices))
    return {name: sizes[name] for name in layout.blueprint.axis_names}


@st.composite
def random_cuts(draw: st.DrawFn, layout: Layout, model: str = MODEL, ordered: bool = False) -> Cut:
    """A valid cut of any axes, with or without a choice per layer; kept indices in any order.

    `ordered`: keep indices in ascending order.
    """
    sizes = draw(accepted_sizes(layout))
    by_layer = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return cut_to(layout, sizes, rng, model, by_layer=by_layer, ordered=ordered)


def cut_to(
    layout: Layout,
    sizes: Mapping[str, int],
    rng: np.random.Generator,
    model: str = MODEL,
    *,
    by_layer: bool = True,
    ordered: bool = False,
) -> Cut:
    """A cut to these sizes with random kept indices; an axis that stays whole may be left out."""

    def draw_indices(size: int, count: int) -> NDArray[np.int64]:
        kept = rng.permutation(size)[:count]
        return np.sort(kept) if ordered else kept

    def rows(axis: Axis, make: Any) -> tuple[list[Any], str | None]:
        if axis.along is None or not by_layer:
            return [make()], None
        return [make() for _ in range(sizes[axis.along])], axis.along

    def axis_cut(name: str, keep: list[Any], along: str | None) -> AxisCut:
        return AxisCut(layout.sizes[name], np.stack(keep) if along else keep[0], along)

    axes: dict[str, AxisCut] = {}
    for axis in layout.blueprint.axes:
        size = layout.sizes[axis.name]
        if axis.groups is not None:
            kv_size, kv = layout.sizes[axis.groups], sizes[axis.groups]
            group, new_group = size // kv_size, sizes[axis.name] // kv

            def pair(
                kv_size: int = kv_size, kv: int = kv, group: int = group, new: int = new_group
            ) -> tuple[Any, Any]:
                kept = draw_indices(kv_size, kv)
                heads = [k * group + draw_indices(group, new) for k in kept]
                return np.concatenate(heads), kept

            drawn, along = rows(axis, pair)
            axes[axis.name] = axis_cut(axis.name, [heads for heads, _ in drawn], along)
            axes[axis.groups] = axis_cut(axis.groups, [kept for _, kept in drawn], along)
        elif not any(other.groups == axis.name for other in layout.blueprint.axes):
            if sizes[axis.name] == size and rng.integers(2):
                continue
            keep, along = rows(axis, lambda size=size, n=sizes[axis.name]: draw_indices(size, n))
            axes[axis.name] = axis_cut(axis.name, keep, along)
    return Cut(model, axes)
