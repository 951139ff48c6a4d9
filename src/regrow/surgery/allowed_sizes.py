"""The sizes of each axis that a plan considers: those that fit hardware tiles."""

import math
from collections.abc import Mapping

from regrow.architectures import Axis, Layout

LEAST_SHARE: Mapping[str, float] = {
    "layer": 0.4, "ffn": 0.3, "expert": 0.3, "hidden": 0.4, "head": 0.3, "kv_head": 0.3,
    "vocab": 0.15,
}  # fmt: skip
"""The least share of each kind of axis that a plan keeps."""
_LEAST_TOKENS = 4_096


def smallest_size(layout: Layout, axis: Axis) -> int:
    """The smallest size of an axis that a plan considers."""
    size = layout.sizes[axis.name]
    smallest = math.ceil(size * LEAST_SHARE[axis.kind])
    return max(smallest, min(size, _LEAST_TOKENS)) if axis.kind == "vocab" else smallest


def size_step(layout: Layout, axis: Axis) -> int:
    """The step between the sizes of an axis that a plan considers.

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


def allowed_sizes(layout: Layout, axis: Axis, step: int | None = None) -> list[int]:
    """The sizes of an axis that a plan considers, from the smallest to the whole.

    `step`: in place of that of `size_step`. The sizes need not be accepted with all others whole.
    """
    size, smallest = layout.sizes[axis.name], smallest_size(layout, axis)
    step = step or size_step(layout, axis)
    return [*(n for n in range(step, size, step) if n >= smallest), size]
