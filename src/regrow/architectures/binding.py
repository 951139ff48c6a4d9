"""Bind a blueprint to one checkpoint: read the sizes of its config, and label its tensors."""

import copy
import re
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

from regrow.architectures.dims import Dims
from regrow.architectures.layout import (
    LabelledTensor,
    Layout,
    layer_axis,
    numbered,
    repeated_axes,
)
from regrow.architectures.schema import Blueprint, Field, Quotient, read_field, size_path
from regrow.common.errors import UserError


def bind(
    blueprint: Blueprint,
    config: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    tied: bool | None = None,
) -> Layout:
    """Label every dimension of every tensor.

    `shapes`: of the tensors in the files, by name. `tied`: whether a stored head equals the
    embedding; None takes the flag in the config instead.

    Raises UserError where the config and the tensors disagree, or a tensor has no label.
    """
    for condition, reason in blueprint.needs:
        if not condition.holds(config):
            raise UserError(f"config.json: {condition.field}: {reason}")
    sizes = bind_sizes(blueprint, config)
    patterns = [_Pattern(name, blueprint.dims(name)) for name in blueprint.tensors]
    outside = {p.name: p for p in patterns if p.layer is None}
    inside = [p for p in patterns if p.layer is not None]
    _check_scopes(blueprint, patterns)
    ignored = [re.compile(pattern) for pattern in blueprint.ignored]
    labelled: dict[str, LabelledTensor] = {}
    parameters: dict[str, str] = {}
    dropped: list[str] = []
    names = parameter_names(blueprint, config, shapes)
    for name, shape in shapes.items():
        parameter = names[name]
        found = (
            (outside[parameter], ())
            if parameter in outside
            else next((hit for p in inside if (hit := p.match(parameter))), None)
        )
        if found is None:
            if name in blueprint.head.copies or any(each.fullmatch(name) for each in ignored):
                dropped.append(name)
                continue
            raise UserError(
                f"{name}: no tensor of this name in the {blueprint.model_type} blueprint, so "
                "its dimensions are unknown and it cannot be cut"
            )
        pattern, numbers = found
        for axis, number in numbers:
            if number >= sizes[axis]:
                raise UserError(
                    f"{name}: config.json says {sizes[axis]} {blueprint.axis(axis).kind}s "
                    f"({size_path(config, blueprint.axis(axis).field)})"
                )
        expected = pattern.dims.shape(sizes)
        if shape != expected:
            raise UserError(
                f"{name}: shape {list(shape)}, but config.json gives {list(expected)} "
                f"({pattern.dims})"
            )
        if parameter in parameters:
            raise UserError(f"{name}: {parameters[parameter]} holds the same parameter; keep one")
        parameters[parameter] = name
        labelled[name] = LabelledTensor(
            name, parameter, pattern.name, pattern.dims, shape, *numbers
        )
    _check_complete(blueprint, sizes, patterns, labelled.values())
    has_head = any(t.parameter == blueprint.head.weight for t in labelled.values())
    flag = read_field(config, "tie_word_embeddings")
    if not has_head and flag is False and not blueprint.head.ties_when_absent:
        raise UserError(
            f"{blueprint.head.weight}: missing, though config.json says that the head is not tied"
        )
    return Layout(
        blueprint,
        copy.deepcopy(dict(config)),
        sizes,
        labelled,
        tuple(dropped),
        tied=not has_head or bool(flag if tied is None else tied),
    )


def parameter_names(
    blueprint: Blueprint, config: Mapping[str, Any], names: Iterable[str]
) -> dict[str, str]:
    """The parameter of each tensor, by its name in the files.

    If the embedding is stored only under another name of a tied tensor, as the head for example,
    that is read as the embedding; `safetensors.torch.save_model` writes such files.
    """
    found = {name: blueprint.renames.get(name, name) for name in names}
    head = blueprint.head
    if blueprint.vocabulary_only or head.embedding in found.values():
        return found
    if read_field(config, "tie_word_embeddings") is None:
        # Some classes tie then. Of one that does not, its own check finds a tensor missing.
        config = {**config, "tie_word_embeddings": True}
    ties = all(condition.holds(config) for condition in head.tied_when)
    by_parameter = {parameter: name for name, parameter in found.items()}
    for other in (*head.aliases, *((head.weight,) if ties else ())):
        if other in by_parameter:
            found[by_parameter[other]] = head.embedding
            break
    return found


class _Pattern:
    """A name pattern of a blueprint, compiled."""

    def __init__(self, text: str, dims: Dims) -> None:
        self.optional = text.endswith("?")
        self.name = text.removesuffix("?")
        self.dims = dims
        self.layer = layer_axis(self.name)
        self.axes = repeated_axes(self.name)
        regex = re.escape(self.name)
        for axis in self.axes:  # Python reads no endless number
            regex = regex.replace(re.escape("{" + axis + "}"), r"(0|[1-9][0-9]{0,8})")
        self._regex = re.compile(regex)

    def match(self, name: str) -> "tuple[_Pattern, tuple[tuple[str, int], ...]] | None":
        """Itself, and the number along each of its axes; None for another name."""
        hit = self._regex.fullmatch(name)
        if hit is None:
            return None
        return self, tuple(zip(self.axes, map(int, hit.groups()), strict=True))

    def count(self, sizes: Mapping[str, int]) -> int:
        return prod(sizes[axis] for axis in self.axes)

    def names(self, sizes: Mapping[str, int]) -> Iterator[str]:
        """Lazily, since a config may claim any number of layers."""
        found: Iterator[str] = iter((self.name,))
        for axis in self.axes:
            found = _numbered(found, axis, sizes[axis])
        return found


def _numbered(patterns: Iterable[str], axis: str, size: int) -> Iterator[str]:
    """Each pattern with all numbers along an axis in place of the axis."""
    return (numbered(pattern, axis, number) for pattern in patterns for number in range(size))


def _check_scopes(blueprint: Blueprint, patterns: list[_Pattern]) -> None:
    """Raise UserError where an axis with a choice for each layer lies in a tensor of all layers."""
    along = {axis.name: axis.along for axis in blueprint.axes if axis.along}
    for pattern in patterns:
        for name in pattern.dims.names & along.keys():
            if along[name] != pattern.layer:
                raise UserError(
                    f"blueprint {blueprint.model_type}: {pattern.name} serves more than one layer, "
                    f"but {name} is chosen layer by layer"
                )


def _check_complete(
    blueprint: Blueprint,
    sizes: Mapping[str, int],
    patterns: list[_Pattern],
    labelled: Iterable[LabelledTensor],
) -> None:
    have: dict[str, set[str]] = {}
    for tensor in labelled:
        have.setdefault(tensor.pattern, set()).add(tensor.parameter)
    for pattern in patterns:
        present = have.get(pattern.name, set())
        missing = pattern.count(sizes) - len(present)
        if missing and (present or not pattern.optional):
            # Only the first is looked for: a config may claim any number of layers.
            first = next(name for name in pattern.names(sizes) if name not in present)
            raise UserError(
                f"{first}: missing, though {blueprint.model_type} with these sizes has it"
                + (f" (and {missing - 1:,} more)" if missing > 1 else "")
            )


def bind_sizes(blueprint: Blueprint, config: Mapping[str, Any]) -> dict[str, int]:
    """Sizes of all axes and fixed sizes, from the config and the defaults of the class.

    Raises UserError where the config has no usable size, or heads do not divide into groups.
    """
    fields = {axis.name: axis.field for axis in blueprint.axes} | dict(blueprint.fixed)
    sizes: dict[str, int] = {}

    def size(name: str) -> int:
        if name not in sizes:
            sizes[name] = _size(name, fields[name], config, size)
        return sizes[name]

    for name in fields:
        size(name)
    for axis in blueprint.axes:
        if axis.groups and sizes[axis.name] % sizes[axis.groups]:
            raise UserError(
                f"config.json: {sizes[axis.name]} heads ({axis.name}) are not a multiple of "
                f"{sizes[axis.groups]} key-value heads ({axis.groups})"
            )
    return sizes


def _size(name: str, field: Field, config: Mapping[str, Any], size: Any) -> int:
    path = size_path(config, field)
    value = read_field(config, path) if path else None
    if value is None:
        default = field.default
        if isinstance(default, Quotient):
            return int(size(default.dividend)) // int(size(default.divisor))
        if isinstance(default, str):
            return int(size(default))
        if default is None:
            raise UserError(f"config.json: {path}: missing, it gives the size of {name}")
        return default
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"config.json: {path}: {value!r} is not a size")
    return field.codec.size(value) if field.codec else value
