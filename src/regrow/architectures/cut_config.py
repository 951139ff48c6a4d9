"""The config.json of a cut model. It is edited as JSON, and only fields that follow an axis
change."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from regrow.architectures.binding import bind_sizes
from regrow.architectures.layout import Layout
from regrow.architectures.schema import Field, Quotient, read_field, size_path
from regrow.common.errors import UserError


def cut_config(
    layout: Layout,
    sizes: Mapping[str, int],
    layers: Mapping[str, Sequence[int]],
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The config at new sizes.

    `sizes`: new sizes of the axes that are cut. `layers`: the kept layers by layer axis, for lists
    with one entry a layer. `config`: the config to edit; None takes the layout's own.

    A size that the class derives from a cut axis, such as head_dim, is written out where the class
    has a field for it.

    Raises UserError where a list of the config has not one entry a layer, or no value of a field
    gives a wanted size.
    """
    blueprint = layout.blueprint
    config = copy.deepcopy(dict(config or layout.config))
    wanted = {**layout.sizes, **sizes}
    fields = {axis.name: axis.field for axis in blueprint.axes} | dict(blueprint.fixed)
    changed = {name for name in fields if wanted[name] != layout.sizes[name]}
    for name, field in fields.items():
        default = field.default
        derived = isinstance(default, Quotient) and {default.dividend, default.divisor} & changed
        if name in changed or derived or blueprint.derived:
            _write(config, name, field, wanted[name])
    # A second pass: a size that is left to its default may follow one that was just written.
    for name, size in bind_sizes(blueprint, config).items():
        if size != wanted[name]:
            _write(config, name, fields[name], wanted[name])
    for name, field in fields.items():
        for path in field.mirrors:
            if wanted[name] != wanted.get(str(field.default)):
                set_field(config, path, wanted[name])
            else:
                config.pop(path, None)
    for path, rule in blueprint.lists.items():
        count, kept = layout.sizes[rule.axis], layers.get(rule.axis)
        if kept is None or list(kept) == list(range(count)):
            continue
        values = read_field(config, path)
        if values is None:
            if rule.default is None:
                continue
            values = [rule.default(layout.config, i) for i in range(count)]
        if not isinstance(values, list):
            raise UserError(f"config.json: {path}: {values!r}: a list is wanted")
        if len(values) != count:
            raise UserError(f"config.json: {path}: {len(values)} entries for {count} layers")
        set_field(config, path, [values[i] for i in kept])
    return config


def _write(config: dict[str, Any], name: str, field: Field, size: int) -> None:
    path = size_path(config, field)
    if path is None:
        return
    try:
        value = field.codec.value(size) if field.codec else size
    except ValueError as error:
        raise UserError(f"{name}: {error}") from None
    set_field(config, path, value)
    for other in field.also:
        if read_field(config, other) is not None:
            set_field(config, other, value)


def set_field(config: dict[str, Any], path: str, value: Any) -> None:
    """Write a value at a dotted path, the path that `read_field` reads."""
    *parents, last = path.split(".")
    for key in parents:
        config = config.setdefault(key, {})
    config[last] = value
