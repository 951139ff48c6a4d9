"""Where a tensor goes in a cut, what stays of it, and by what it is scaled."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from regrow.architectures import LabelledTensor, Layout
from regrow.architectures.dims import Dimension
from regrow.cuts.cut import Cut
from regrow.cuts.ranges import Indices


def position_after(label: LabelledTensor, layout: Layout, cut: Cut) -> int | None:
    """The layer of a tensor after the cut.

    It is 0 for tensors outside the layers, and None if the layer is dropped.
    """
    if label.layer is None:
        return 0
    axis, index = label.layer
    assert all(cut.axes[n].along in (None, axis) for n in label.dims.names & cut.axes.keys())
    places = np.flatnonzero(cut.layers(axis, layout.sizes[axis]) == index)
    return int(places[0]) if len(places) else None


def expert_after(label: LabelledTensor, position: int, cut: Cut) -> int | None:
    """The number of a tensor's expert after the cut, in the layer that is then at `position`.

    It is 0 for tensors of no expert, and None if the expert is dropped.
    """
    if label.expert is None:
        return 0
    axis, index = label.expert
    if axis not in cut.axes:
        return index
    places = np.flatnonzero(cut.axes[axis].row(position) == index)
    return int(places[0]) if len(places) else None


Shared = dict[tuple[Dimension, int | None], Indices | None]
"""Kept indices by dimension, and by layer if they differ from layer to layer.

Tensors that need the same indices share one array.
"""


def kept_indices(
    dimension: Dimension, position: int, layout: Layout, cut: Cut, shared: Shared
) -> Indices | None:
    """The indices that a cut keeps of one dimension of a tensor; None if it keeps all.

    `position`: the layer of the tensor after the cut.
    """
    axes = {name: cut.axes[name] for name in dimension.names & cut.axes.keys()}
    key = (dimension, position if any(axis.along for axis in axes.values()) else None)
    if key not in shared:
        rows = {name: axis.row(position) for name, axis in axes.items()}
        shared[key] = dimension.indices(layout.sizes, rows)
    return shared[key]


@dataclass(frozen=True)
class Scaling:
    """Each value w becomes (w + offset) * factor - offset."""

    factor: float
    offset: float

    def applied(self, values: Any) -> Any:
        """`values`: an array or a tensor; the result has the same type."""
        return (values + self.offset) * self.factor - self.offset


def scalings_of(layout: Layout, cut: Cut) -> dict[str, Scaling]:
    """What the folds of a cut do, by parameter."""
    scalings: dict[str, Scaling] = {}
    for fold in layout.folds():
        if fold.axis in cut.axes and cut.axes[fold.axis].kept != layout.sizes[fold.axis]:
            ratio = cut.axes[fold.axis].kept / layout.sizes[fold.axis]
            if fold.tensor in scalings:
                raise ValueError(f"{fold.tensor} has two folds")
            scalings[fold.tensor] = Scaling(ratio**fold.power, fold.offset)
    return scalings
