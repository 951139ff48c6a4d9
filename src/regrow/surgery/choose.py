"""From sizes and scores to a cut: the highest scores stay."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError
from regrow.surgery.cut import AxisCut, Cut
from regrow.surgery.ranges import Indices

Scores = Mapping[str, NDArray[np.float64]]
"""By axis: [size], or [layers, size] where the choice may differ from layer to layer. What scores
higher is kept."""


def choose(
    layout: Layout,
    model: str,
    sizes: Mapping[str, int],
    scores: Scores,
    given: Mapping[str, Indices] | None = None,
) -> Cut:
    """The cut to these sizes that keeps what scores highest; equal scores keep the lower index.

    `model`: fingerprint of the checkpoint. `sizes`: what remains, by axis; an axis that is absent
    or not made smaller stays whole. `given`: indices that are decided already, by axis.

    Query heads follow their key-value heads: with fewer of those, groups go whole, by the mean
    score of their heads; with all of them, each group loses the same number.
    Raises UserError where a score is not finite or sizes cannot be.
    """
    given = given or {}
    sizes = {**sizes, **{name: len(keep) for name, keep in given.items()}}
    layout.check_sizes(sizes)
    wanted = {name: n for name, n in sizes.items() if n < layout.sizes[name] or name in given}
    axes: dict[str, AxisCut] = {}
    by_kind = sorted(layout.blueprint.axes, key=lambda axis: axis.kind != "layer")
    for axis in by_kind:
        if axis.name in given:
            axes[axis.name] = AxisCut(layout.sizes[axis.name], given[axis.name])
        elif axis.groups and (axis.name in wanted or axis.groups in wanted):
            heads, kv_heads = _choose_heads(layout, axis, wanted, scores, axes)
            axes[axis.name] = heads
            if kv_heads is not None:
                axes[axis.groups] = kv_heads
        elif axis.name in wanted and axis.name not in axes and not _is_grouped(layout, axis):
            rows = _rows(layout, axis, scores, axes)
            keep = np.stack([_top(row, wanted[axis.name]) for row in rows])
            axes[axis.name] = _axis_cut(layout, axis, keep)
    ordered = {a.name: axes[a.name] for a in layout.blueprint.axes if a.name in axes}
    return Cut(model, {name: cut for name, cut in ordered.items() if not cut.is_identity})


def _choose_heads(
    layout: Layout, axis: Axis, wanted: Mapping[str, int], scores: Scores, axes: dict[str, AxisCut]
) -> tuple[AxisCut, AxisCut | None]:
    assert axis.groups is not None
    old_heads, old_kv = layout.sizes[axis.name], layout.sizes[axis.groups]
    heads, kv = wanted.get(axis.name, old_heads), wanted.get(axis.groups, old_kv)
    group = old_heads // old_kv
    rows = _rows(layout, axis, scores, axes).reshape(-1, old_kv, group)
    kept_kv = np.stack([_top(row.mean(axis=1), kv) for row in rows])
    kept_heads = []
    for row, kv_indices in zip(rows, kept_kv, strict=True):
        within = np.stack([_top(row[k], heads // kv) for k in kv_indices])
        kept_heads.append((kv_indices[:, None] * group + within).reshape(-1))
    cut = _axis_cut(layout, axis, np.stack(kept_heads))
    kv_axis = layout.blueprint.axis(axis.groups)
    return cut, _axis_cut(layout, kv_axis, kept_kv) if kv < old_kv else None


def _is_grouped(layout: Layout, axis: Axis) -> bool:
    """Key-value heads are chosen with the query heads that read them."""
    return any(other.groups == axis.name for other in layout.blueprint.axes)


def _rows(
    layout: Layout, axis: Axis, scores: Scores, axes: Mapping[str, AxisCut]
) -> NDArray[np.float64]:
    """Scores of an axis as [choices, size]: a row for each kept layer, or one for the scope."""
    if axis.name not in scores:
        raise UserError(f"{axis.name}: no score says which indices to keep")
    values = np.asarray(scores[axis.name], dtype=np.float64)
    if not np.isfinite(values).all():
        raise UserError(f"{axis.name}: a score is NaN or infinite; look at the calibration text")
    size = layout.sizes[axis.name]
    layers = layout.sizes[axis.along] if axis.along else 1
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


def _top(scores: NDArray[np.float64], count: int) -> Indices:
    """Indices of the highest scores, ascending; a tie keeps the lower index."""
    order = np.argsort(-scores, kind="stable")
    return np.sort(order[:count]).astype(np.int64)
