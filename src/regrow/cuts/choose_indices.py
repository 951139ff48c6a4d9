"""Choose a cut from sizes and scores: the indices with the highest scores are kept."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError
from regrow.cuts.cut import AxisCut, Cut
from regrow.cuts.ranges import Indices

Scores = Mapping[str, NDArray[np.float64]]
"""Scores by axis: [size], or [layers, size] if the choice may differ from layer to layer.

Indices with higher scores are kept. For layers it can also be a table of distances, [size + 1,
size + 1], between the hidden states in front of two layers, the last of them behind all layers. The
run of layers with the least distance from its front to its back is dropped.
"""


def choose(
    layout: Layout,
    model: str,
    sizes: Mapping[str, int],
    scores: Scores,
    fixed: Mapping[str, Indices] | None = None,
) -> Cut:
    """The cut to these sizes that keeps the highest scores; of equal scores, the lower index.

    Of layers with a table of distances, it drops the run with the least distance.

    `model`: fingerprint of the checkpoint. `sizes`: new sizes by axis; an axis that is absent or
    not smaller stays whole. `fixed`: kept indices by axis, for axes that need no scores.

    Query heads follow their key-value heads. With fewer key-value heads, whole groups are dropped,
    by the mean score of their query heads. With all key-value heads kept, each group loses the same
    number of query heads.

    Raises UserError if a score is missing or not finite, or the architecture refuses the sizes.
    """
    fixed = fixed or {}
    sizes = {**sizes, **{name: len(keep) for name, keep in fixed.items()}}
    layout.check_sizes(sizes)
    new_sizes = {name: n for name, n in sizes.items() if n < layout.sizes[name] or name in fixed}
    axes: dict[str, AxisCut] = {}
    layers_first = sorted(layout.blueprint.axes, key=lambda axis: axis.kind != "layer")
    for axis in layers_first:
        if axis.name in fixed:
            axes[axis.name] = AxisCut(layout.sizes[axis.name], fixed[axis.name])
        elif axis.groups and (axis.name in new_sizes or axis.groups in new_sizes):
            heads, kv_heads = _choose_heads(layout, axis, new_sizes, scores, axes)
            axes[axis.name] = heads
            if kv_heads is not None:
                axes[axis.groups] = kv_heads
        elif axis.name in new_sizes and axis.name not in axes and not _is_grouped(layout, axis):
            rows, size = _score_rows(layout, axis, scores, axes), new_sizes[axis.name]
            is_table = rows.shape[-1] > layout.sizes[axis.name]
            kept = [_without_run(rows, size)] if is_table else [_highest(row, size) for row in rows]
            axes[axis.name] = _axis_cut(layout, axis, np.stack(kept))
    ordered = {a.name: axes[a.name] for a in layout.blueprint.axes if a.name in axes}
    return Cut(model, {name: cut for name, cut in ordered.items() if not cut.is_identity})


def _choose_heads(
    layout: Layout,
    axis: Axis,
    new_sizes: Mapping[str, int],
    scores: Scores,
    axes: dict[str, AxisCut],
) -> tuple[AxisCut, AxisCut | None]:
    assert axis.groups is not None
    old_heads, old_kv = layout.sizes[axis.name], layout.sizes[axis.groups]
    heads, kv = new_sizes.get(axis.name, old_heads), new_sizes.get(axis.groups, old_kv)
    group = old_heads // old_kv
    rows = _score_rows(layout, axis, scores, axes).reshape(-1, old_kv, group)
    kept_kv = np.stack([_highest(row.mean(axis=1), kv) for row in rows])
    kept_heads = []
    for row, kv_indices in zip(rows, kept_kv, strict=True):
        within = np.stack([_highest(row[k], heads // kv) for k in kv_indices])
        kept_heads.append((kv_indices[:, None] * group + within).reshape(-1))
    cut = _axis_cut(layout, axis, np.stack(kept_heads))
    kv_axis = layout.blueprint.axis(axis.groups)
    return cut, _axis_cut(layout, kv_axis, kept_kv) if kv < old_kv else None


def _is_grouped(layout: Layout, axis: Axis) -> bool:
    """Whether this is an axis of key-value heads, which are chosen with their query heads."""
    return any(other.groups == axis.name for other in layout.blueprint.axes)


def _score_rows(
    layout: Layout, axis: Axis, scores: Scores, axes: Mapping[str, AxisCut]
) -> NDArray[np.float64]:
    """Scores of an axis, [rows, size]: a row for each kept layer, or one row for all layers.

    A table of distances between layers is given as it is.
    """
    if axis.name not in scores:
        raise UserError(f"{axis.name}: no score says which indices to keep")
    values = np.asarray(scores[axis.name], dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{axis.name}: a score is NaN or infinite; look at the calibration text")
    size = layout.sizes[axis.name]
    layers = layout.sizes[axis.along] if axis.along else 1
    if axis.kind == "layer" and values.shape == (size + 1, size + 1):
        return values
    if values.shape not in ((size,), (layers, size)):
        raise ValueError(f"{axis.name}: scores have shape {values.shape}")
    if values.ndim == 1 or axis.along is None:
        return values.reshape(1, size) if values.ndim == 1 else values.mean(axis=0, keepdims=True)
    if axis.along in axes:
        values = values[axes[axis.along].keep]
    return values


def _axis_cut(layout: Layout, axis: Axis, keep: Indices) -> AxisCut:
    if len(keep) == 1 and (axis.along is None or layout.sizes[axis.along] != 1):
        return AxisCut(layout.sizes[axis.name], keep[0])
    return AxisCut(layout.sizes[axis.name], keep, axis.along)


def _highest(scores: NDArray[np.float64], count: int) -> Indices:
    """Indices of the highest scores, ascending; of equal scores, the lower index."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count]).astype(np.int64)


def _without_run(distances: NDArray[np.float64], count: int) -> Indices:
    """The layers that are left without the run of the least distance; of equal runs, the first.

    `distances`: [layers + 1, layers + 1]. `count`: of the layers that are left.
    """
    layers = len(distances) - 1
    first = int(np.argmin(np.diagonal(distances, offset=layers - count)))
    return np.delete(np.arange(layers, dtype=np.int64), range(first, first + layers - count))
