"""Turn the options of a cut (`heads: 6`) into sizes by axis (`head: 6, kv_head: 3`), and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from regrow.architectures import Axis, Layout
from regrow.common.errors import UserError
from regrow.cuts.ranges import Indices, parse_ranges

_KINDS = {
    "layers": "layer", "drop_layers": "layer", "hidden": "hidden", "ffn": "ffn", "heads": "head",
    "kv_heads": "kv_head", "experts": "expert", "vocab_size": "vocab",
}  # fmt: skip


def sizes_from_options(
    layout: Layout, options: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, Indices]]:
    """New sizes by axis, and the kept layers by axis if the layers to drop are listed.

    `options`: by option name, a value, or a dict of values by stack. Sizes that follow from another
    are filled in: key-value heads if every query head has its own, query heads if only the number
    of key-value heads is given.

    Raises UserError if an option does not fit the architecture.
    """
    sizes: dict[str, int] = {}
    kept_layers: dict[str, Indices] = {}
    options_by_axis: dict[str, tuple[str, str | None]] = {}
    for option, value in options.items():
        for axis, axis_value in _by_axis(layout, option, value):
            options_by_axis[axis.name] = option, axis.stack if isinstance(value, Mapping) else None
            if option == "drop_layers":
                kept_layers[axis.name] = _without_layers(layout, axis, axis_value)
            else:
                sizes[axis.name] = axis_value
    for axis in layout.blueprint.axes:
        if axis.groups:
            _fill_in_heads(layout, axis.name, axis.groups, sizes)
    try:
        layout.check_sizes({**sizes, **{name: len(keep) for name, keep in kept_layers.items()}})
    except UserError as error:
        key = error.key
        if key is not None and key not in options_by_axis and key in layout.blueprint.axis_names:
            key = layout.blueprint.axis(key).groups  # heads that were filled in
        if key not in options_by_axis:
            raise
        option, stack = options_by_axis[key]
        raise error.at(option if stack is None else f"{option}.{stack}") from None
    return sizes, kept_layers


def check_cuts_something(
    layout: Layout, options: Mapping[str, Any], sizes: Mapping[str, int], given: Mapping[str, Any]
) -> None:
    """Raise UserError if options leave a model as it is.

    `sizes`, `given`: as `sizes_from_options` returns them.
    """
    if options and not given and all(size >= layout.sizes[name] for name, size in sizes.items()):
        option, value = next(iter(options.items()))
        raise UserError(
            "nothing is cut: the model has that size; give less",
            key=option,
            value=" ".join(f"{stack}={size}" for stack, size in value.items())
            if isinstance(value, Mapping)
            else value,
        )


def options_for(layout: Layout, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The options of a cut to these sizes by axis; axes that stay whole have no option."""
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
    """The axes that an option is for, each with its value."""
    kind = layout.blueprint.model_type
    axes = [axis for axis in layout.blueprint.axes if axis.kind == _KINDS[option]]
    if not axes and layout.blueprint.vocabulary_only:
        name = layout.blueprint.architectures[0]  # another class of the family may have a blueprint
        raise UserError(
            f"{name} has no blueprint; only its vocabulary can be cut (regrow inspect says why)",
            key=option,
        )
    if not axes:
        experts = option == "ffn" and any(a.kind == "expert" for a in layout.blueprint.axes)
        instead = "; its experts can be cut, so give experts" if experts else ""
        if layout.blueprint.derived:
            instead = ", or none that could be proved; regrow inspect lists those that can be cut"
        raise UserError(f"{kind} has no such axis{instead}", key=option)
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
    for stack, stack_value in value.items():
        named = [axis for axis in axes if axis.stack == stack]
        if not named:
            stacks = list(dict.fromkeys(axis.stack for axis in axes if axis.stack))
            problem = (
                f"{kind} has no stack {stack}; it has {', '.join(stacks)}"
                if stacks
                else f"{kind} has one size for the whole model; give {stack_value} alone"
            )
            raise UserError(
                problem,
                key=option,
                value=f"{stack}={stack_value}",
            )
        pairs += [(axis, stack_value) for axis in named]
    return pairs


def _without_layers(layout: Layout, axis: Axis, ranges: str) -> Indices:
    """The layers that are kept if those in `ranges` are dropped."""
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


def _fill_in_heads(layout: Layout, head: str, kv_head: str, sizes: dict[str, int]) -> None:
    """Add to `sizes` the number of query or key-value heads that follows from the other."""
    group = layout.sizes[head] // layout.sizes[kv_head]
    if head in sizes and kv_head not in sizes and group == 1:
        sizes[kv_head] = sizes[head]
    elif kv_head in sizes and head not in sizes:
        sizes[head] = sizes[kv_head] * group
