"""The parameters that a class assembles from several tensors of a file.

A file holds the matrices of each expert by themselves. transformers puts those of all experts of a
layer into one parameter on load, [experts, rows, columns], with the rows of several matrices of the
same height one below the other. A parameter that only has another name in the files is the simplest
case.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from regrow.architectures.layout import layer_axis, numbered, repeated_axes
from regrow.architectures.schema import Blueprint

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Assembled:
    """A parameter of the class, and the tensors of files that it is made from.

    Attributes:
        parameter: Its name in the class.
        parts: Names in files, [experts][matrices]; the rows of one matrix stand below those of the
            matrix before.
        stacked: Whether it has a dimension of experts. Else there is one list of matrices.
    """

    parameter: str
    parts: tuple[tuple[str, ...], ...]
    stacked: bool


def assembled(blueprint: Blueprint, names: Iterable[str]) -> list[Assembled]:
    """The parameters that the class makes from some of these tensors.

    `names`: of the tensors in files, as the patterns of the blueprint name them.
    """
    sources = [
        (_regex(source), target, order, "expert" in repeated_axes(source))
        for target, parts in blueprint.assembled.items()
        for order, source in enumerate(parts)
    ]
    found: dict[tuple[str, bool], dict[int, dict[int, str]]] = {}
    for name in names if sources else ():
        for regex, target, order, stacked in sources:
            if hit := regex.fullmatch(name):
                layer, *expert = map(int, hit.groups())
                axis = layer_axis(target)
                assert axis is not None
                parameter = numbered(target, axis, layer), stacked
                number = expert[0] if expert else 0
                found.setdefault(parameter, {}).setdefault(number, {})[order] = name
                break
    return [
        Assembled(
            parameter,
            tuple(tuple(parts[i] for i in sorted(parts)) for _, parts in sorted(experts.items())),
            stacked,
        )
        for (parameter, stacked), experts in found.items()
    ]


def holds_assembled(blueprint: Blueprint, names: Iterable[str]) -> bool:
    """Whether a file holds parameters of the class as they are after the load, by these names."""
    regexes = [_regex(target) for target in blueprint.assembled]
    return any(regex.fullmatch(name) for name in names for regex in regexes)


def class_shapes(blueprint: Blueprint, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of the parameters of the class, by name.

    `shapes`: of the tensors in files, as the patterns of the blueprint name them.
    """
    found = dict(shapes)
    for each in assembled(blueprint, shapes):
        first, *_ = each.parts
        rows = sum(shapes[name][0] for name in first)
        experts = (len(each.parts),) if each.stacked else ()
        shape = (*experts, rows, *shapes[first[0]][1:])
        for name in (name for parts in each.parts for name in parts):
            del found[name]
        found[each.parameter] = shape
    return found


def file_shapes(blueprint: Blueprint, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in files, as the patterns of the blueprint name them.

    `shapes`: of the parameters of the class, by name.
    """
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        parts = parts_of(blueprint, name, shape)
        found |= {part.name: (part.last - part.first, shape[-1]) for part in parts}
        if not parts:
            found[name] = shape
    return found


@dataclass(frozen=True)
class Part:
    """Where a tensor of a file lies in a parameter of the class.

    Attributes:
        name: Of the tensor, as the patterns of the blueprint name it.
        expert: Its number in the first dimension of the parameter; None if that is not of experts.
        first, last: Its rows, from `first` to before `last`.
    """

    name: str
    expert: int | None
    first: int
    last: int

    def of(self, values: "Tensor") -> "Tensor":
        """The tensor, as a view of the parameter."""
        rows = values if self.expert is None else values[self.expert]
        return rows[self.first : self.last]


def taken_apart(blueprint: Blueprint, state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """The tensors of files that are in a state dict of the class, by name, as views of it."""
    found: dict[str, Tensor] = {}
    for name, values in state.items():
        parts = parts_of(blueprint, name, tuple(values.shape))
        found |= {part.name: part.of(values) for part in parts} or {name: values}
    return found


def parts_of(blueprint: Blueprint, parameter: str, shape: tuple[int, ...]) -> list[Part]:
    """The tensors of files that a parameter of the class is made from; none if it is one of them.

    `shape`: of the parameter.
    """
    for target, sources in blueprint.assembled.items():
        hit = _regex(target).fullmatch(parameter)
        if hit is None:
            continue
        found = []
        stacked = "expert" in repeated_axes(sources[0])
        height = shape[1 if stacked else 0] // len(sources)
        for expert in range(shape[0] if stacked else 1):
            for number, source in enumerate(sources):
                name = source
                for axis, index in zip(repeated_axes(source), (int(hit[1]), expert), strict=False):
                    name = numbered(name, axis, index)
                first = number * height
                found.append(Part(name, expert if stacked else None, first, first + height))
        return found
    return []


def _regex(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern)
    for axis in repeated_axes(pattern):
        text = text.replace(re.escape("{" + axis + "}"), "([0-9]+)")
    return re.compile(text)
