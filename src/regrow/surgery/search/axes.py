"""What a search cuts: one axis at a time, or several that can only be cut together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from regrow.architectures import Axis, Layout
from regrow.architectures.linked import linked_axes
from regrow.surgery.allowed_sizes import LEAST_SHARE, allowed_sizes

_PROBES = 3
"""The cost of an axis is measured at so many sizes."""

Sizes = Mapping[str, int]


@dataclass(frozen=True)
class SearchAxis:
    """One size that is searched.

    Attributes:
        name: `decoder.ffn`, or `hidden with head` for axes that can only be cut together.
        lead: The axis whose size stands for the choice.
        options: Sizes by axis, the whole first, down to the smallest that may be chosen.
        accepted: The smaller options that the architecture accepts if all else stays whole. The
            last is the last option.
    """

    name: str
    lead: str
    options: tuple[Sizes, ...]
    accepted: tuple[Sizes, ...]

    @property
    def whole(self) -> int:
        return self.options[0][self.lead]

    def share(self, option: Sizes) -> float:
        """The part of the axis that an option keeps."""
        return option[self.lead] / self.whole

    def share_of(self, layout: Layout, sizes: Sizes) -> float:
        """The part of the axis that sizes of all axes keep; of query heads, within their groups."""
        groups = layout.blueprint.axis(self.lead).groups
        share = sizes.get(self.lead, self.whole) / self.whole
        if groups is None or groups in self.options[0]:
            return share
        return share * layout.sizes[groups] / sizes.get(groups, layout.sizes[groups])

    def probes(self) -> list[Sizes]:
        """The options at which the cost is measured: the smallest, and others at equal ratios."""
        smallest = self.share(self.accepted[-1])
        wanted = [smallest ** (number / _PROBES) for number in range(1, _PROBES + 1)]
        nearest = [
            min(self.accepted, key=lambda option: abs(self.share(option) - share))
            for share in wanted
        ]
        return [option for option in self.accepted if option in nearest]


def combined(layout: Layout, options: Sequence[Sizes]) -> dict[str, int]:
    """The sizes by axis if each search axis takes one of its options.

    A search axis of key-value heads drops whole groups, and one of query heads drops heads within
    the groups. So the query heads are the kept groups times the heads that each keeps.
    """
    sizes = {name: size for option in options for name, size in option.items()}
    for axis in layout.blueprint.axes:
        if axis.groups and axis.groups in sizes:
            in_group = sizes.get(axis.name, layout.sizes[axis.name]) // layout.sizes[axis.groups]
            if layout.sizes[axis.name] > layout.sizes[axis.groups]:
                sizes[axis.name] = sizes[axis.groups] * in_group
    return sizes


def search_axes(layout: Layout, least: Sizes = MappingProxyType({})) -> list[SearchAxis]:
    """All that can be cut in a model, in the order of its axes.

    `least`: the smallest size that some axes may have; an axis may have to stay whole.
    """
    found, alone_refused = [], []
    for axis, sizes in _units(layout):
        options = [each for each in sizes if each[axis.name] >= least.get(axis.name, 1)]
        accepted = tuple(o for o in options[1:] if _accepts(layout, [o]))
        if accepted:
            kept = options[: options.index(accepted[-1]) + 1]
            found.append(SearchAxis(_name(layout, kept[0]), axis.name, tuple(kept), accepted))
        elif len(options) > 1:
            alone_refused.append((axis, options))
    for linked in linked_axes(layout):
        units = [(axis, options) for axis, options in alone_refused if axis.name in linked]
        found += _joint(layout, units)
    order = layout.blueprint.axis_names
    return sorted(found, key=lambda each: order.index(each.lead))


def _units(layout: Layout) -> Iterator[tuple[Axis, list[Sizes]]]:
    """For each config field of a size, its first axis, and the sizes of all its axes, whole first.

    Key-value heads that each serve one query head are cut with their query heads.
    """
    blueprint = layout.blueprint
    grouped = {axis.groups: axis for axis in blueprint.axes if axis.groups}
    for names in dict.fromkeys(layout.axes_of_field(name) for name in blueprint.axis_names):
        axis, members, step = blueprint.axis(names[0]), names, None
        heads = grouped.get(axis.name)
        if heads is not None and layout.sizes[heads.name] == layout.sizes[axis.name]:
            continue
        if axis.groups:
            step = layout.sizes[axis.groups]
            if step == layout.sizes[axis.name]:
                groups = (blueprint.axis(name).groups for name in names)
                members, step = (*names, *(name for name in groups if name)), 1
        sizes = allowed_sizes(layout, axis, step)[::-1]
        yield axis, [dict.fromkeys(members, size) for size in sizes]


def _joint(layout: Layout, units: list[tuple[Axis, list[Sizes]]]) -> Iterator[SearchAxis]:
    """A search axis that keeps the same share of several axes, if there are such sizes."""
    refused = {axis.name for axis, _ in units}
    # Of heads in groups, whole groups go: they take their query heads along.
    units = [(axis, options) for axis, options in units if axis.groups not in refused]
    if len(units) < 2:
        return
    lead, options = min(units, key=lambda unit: len(unit[1]))
    whole = options[0][lead.name]
    joint = []
    for option in options:
        kept = option[lead.name]
        sizes: dict[str, int] = {}
        for axis, others in units:
            size, rest = divmod(layout.sizes[axis.name] * kept, whole)
            if not rest:
                sizes |= dict.fromkeys(others[0], size)
        if len(sizes) == sum(len(others[0]) for _, others in units):
            joint.append(sizes)
    accepted = tuple(sizes for sizes in joint[1:] if _accepts(layout, [sizes]))
    if accepted:
        names = [_name(layout, others[0]) for _, others in units]
        name = f"{names[0]} with {' and '.join(names[1:])}"
        yield SearchAxis(name, lead.name, (joint[0], *accepted), accepted)


def _name(layout: Layout, option: Sizes) -> str:
    """The name of the axes of an option: their own, their stack and kind, or their kind."""
    axes = [layout.blueprint.axis(name) for name in option]
    if len(axes) == 1:
        return axes[0].name
    kinds = [axis.kind for axis in axes]
    kind = "head" if "head" in kinds else kinds[0]
    stacks = {axis.stack for axis in axes}
    stack = stacks.pop() if len(stacks) == 1 else None
    return f"{stack}.{kind}" if stack else kind


def _accepts(layout: Layout, options: Sequence[Sizes]) -> bool:
    return layout.size_problem(combined(layout, options)) is None


def keeps_enough(layout: Layout, sizes: Sizes) -> bool:
    """Whether each axis of heads keeps its least share; groups and heads within them multiply."""
    return all(
        size >= LEAST_SHARE["head"] * layout.sizes[name]
        for name, size in sizes.items()
        if layout.blueprint.axis(name).kind == "head"
    )
