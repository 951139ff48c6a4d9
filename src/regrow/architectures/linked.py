"""Which axes of an architecture can only be cut together, or limit each other's sizes."""

from regrow.architectures.layout import Layout
from regrow.architectures.schema import Quotient


def linked_axes(layout: Layout) -> list[set[str]]:
    """The axes, in sets of those whose sizes depend on each other.

    They depend on each other by a shared config field, as query heads and key-value heads, or by a
    constraint.
    """
    blueprint = layout.blueprint
    links = [set(layout.axes_of_field(axis.name)) for axis in blueprint.axes]
    links += [{axis.name, axis.groups} for axis in blueprint.axes if axis.groups]
    links += [set(rule.axes) for rule in blueprint.constraints]
    for field in blueprint.fixed.values():
        if field.path is None and isinstance(field.default, Quotient):
            links.append({field.default.dividend, field.default.divisor})
    linked: list[set[str]] = []
    for link in links:
        touching = [names for names in linked if names & link]
        linked = [names for names in linked if not names & link] + [link.union(*touching)]
    return linked
