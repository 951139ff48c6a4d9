"""From what a user asks (`heads: 6`) to sizes by axis (`head: 6, kv_head: 3`)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError
from regrow.surgery.ranges import Indices, parse_ranges

_KINDS = {
    "layers": "layer", "drop_layers": "layer", "hidden": "hidden", "ffn": "ffn", "heads": "head",
    "kv_heads": "kv_head", "vocab_size": "vocab",
}  # fmt: skip


def requested(
    layout: Layout, options: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, Indices]]:
    """Sizes by axis, and indices that are decided already (layers named by number).

    `options`: by option name, a value or values by stack. Options that only follow another are
    filled in: key-value heads where every query head has its own, query heads where whole groups
    go. Raises UserError where an option does not fit the architecture.
    """
    sizes: dict[str, int] = {}
    given: dict[str, Indices] = {}
    for option, value in options.items():
        for axis, wanted in _by_axis(layout, option, value):
            if option == "drop_layers":
                given[axis.name] = _without(layout, axis, wanted)
            else:
                sizes[axis.name] = wanted
    for axis in layout.blueprint.axes:
        if axis.groups:
            _follow(layout, axis.name, axis.groups, sizes)
    layout.check_sizes({**sizes, **{name: len(keep) for name, keep in given.items()}})
    return sizes, given


def options_for(layout: Layout, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The options that ask for these sizes by axis; of those that stay, none."""
    options: dict[str, Any] = {}
    for option, kind in _KINDS.items():
        axes = [axis for axis in layout.blueprint.axes if axis.kind == kind]
        cut = {axis.stack: sizes[axis.name] for axis in axes if _is_cut(layout, axis, sizes)}
        if not cut or option == "drop_layers":
            continue
        one_field = len({axis.field.path for axis in axes}) == 1
        options[option] = next(iter(cut.values())) if one_field else cut
    return options


def _is_cut(layout: Layout, axis: Axis, sizes: Mapping[str, int]) -> bool:
    return sizes.get(axis.name, layout.sizes[axis.name]) < layout.sizes[axis.name]


def _by_axis(layout: Layout, option: str, value: Any) -> list[tuple[Axis, Any]]:
    kind = layout.blueprint.model_type
    axes = [axis for axis in layout.blueprint.axes if axis.kind == _KINDS[option]]
    if not axes and layout.blueprint.vocabulary_only:
        raise UserError(f"{kind} has no blueprint; only its vocabulary can be cut", key=option)
    if not axes:
        raise UserError(f"{kind} has no such axis", key=option)
    if not isinstance(value, Mapping):
        fields = {axis.field.path for axis in axes}
        stacks = list(dict.fromkeys(axis.stack for axis in axes if axis.stack))
        if len(fields) > 1:
            both = " or ".join(f"{stack}={value}" for stack in stacks)
            raise UserError(
                f"{kind} has {len(stacks)} stacks; give {both}", key=option, value=value
            )
        return [(axis, value) for axis in axes]
    pairs = []
    for stack, wanted in value.items():
        named = [axis for axis in axes if axis.stack == stack]
        if not named:
            stacks = list(dict.fromkeys(axis.stack for axis in axes if axis.stack))
            right = f"it has {', '.join(stacks)}" if stacks else f"give {wanted} alone"
            raise UserError(
                f"{kind} has no {stack} of its own; {right}", key=option, value=f"{stack}={wanted}"
            )
        pairs += [(axis, wanted) for axis in named]
    return pairs


def _without(layout: Layout, axis: Axis, ranges: str) -> Indices:
    size = layout.sizes[axis.name]
    try:
        dropped = parse_ranges(str(ranges), size)
    except ValueError as error:
        raise UserError(
            f"{error} (layers 0 to {size - 1})", key="drop_layers", value=ranges
        ) from None
    if len(np.unique(dropped)) != len(dropped):
        raise UserError("a layer is named twice", key="drop_layers", value=ranges)
    if len(dropped) == 0:
        raise UserError("names no layer; write such as 12-15,20", key="drop_layers")
    keep = np.setdiff1d(np.arange(size, dtype=np.int64), dropped)
    if len(keep) == 0:
        raise UserError("no layer is left", key="drop_layers", value=ranges)
    return keep


def _follow(layout: Layout, head: str, kv_head: str, sizes: dict[str, int]) -> None:
    group = layout.sizes[head] // layout.sizes[kv_head]
    if head in sizes and kv_head not in sizes and group == 1:
        sizes[kv_head] = sizes[head]
    elif kv_head in sizes and head not in sizes:
        sizes[head] = sizes[kv_head] * group
