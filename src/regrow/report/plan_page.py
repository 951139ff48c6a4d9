"""The page of a plan by measured costs: the cost of each axis, and the candidates."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report.plan_tables import candidate_rows, cost_rows, remaining, stage_rows
from regrow.report.svg import (
    CHARACTER_WIDTH,
    WIDTH,
    Element,
    Scale,
    Svg,
    add,
    canvas,
    path,
    shorten,
    tick_labels,
    ticks,
)
from regrow.report.tables import way
from regrow.report.templates import render

if TYPE_CHECKING:
    from regrow.surgery.plan import Plan
    from regrow.surgery.search.search import AxisCosts, SizeSearch

_LEFT, _RIGHT, _TOP, _PLOT, _BOTTOM = 40.0, WIDTH - 14.0, 12.0, 168.0, 40.0
_ACROSS, _SMALL, _PITCH, _APART = 3, 70.0, 120.0, 14.0


def cost_charts(axes: Sequence["AxisCosts"], original: float, parameters: int) -> Svg | None:
    """A small chart for each axis: bits per byte more, over the part of the parameters that goes.

    All are on the same scales, so a flatter line is a cheaper axis. `original`: its bits per byte.
    `parameters`: of the original. None if nothing was measured.
    """
    lines = [(axis, _points(axis, original, parameters)) for axis in axes]
    points = [point for _, line in lines for point in line]
    if not points:
        return None
    most_x, most_y = max(x for x, _ in points), 1.15 * max(0.01, *(y for _, y in points))
    low = min(0.0, *(y for _, y in points))
    rows = -(-len(lines) // _ACROSS)
    width = (_RIGHT - _LEFT - (_ACROSS - 1) * _APART) / _ACROSS
    ends = "; ".join(f"{axis.axis} {line[-1][1]:+.3f}" for axis, line in lines)
    root = canvas(
        "What each axis costs", rows * _PITCH + 4, f"Bits per byte more, at the smallest: {ends}."
    )
    for number, (axis, line) in enumerate(lines):
        row, column = divmod(number, _ACROSS)
        left, top = _LEFT + column * (width + _APART), row * _PITCH + 20
        x, y = Scale(0, most_x, left, left + width), Scale(low, most_y, top + _SMALL, top)
        _grid(root, y, left, left + width, labelled=column == 0)
        add(root, "path", "axis", d=path([(left, y(low)), (left + width, y(low))]))
        add(root, "path", "line", d=path([(x(px), y(py)) for px, py in line]))
        for (px, py), size in zip(line, [axis.size, *(cut.size for cut in axis.cuts)], strict=True):
            add(root, "circle", "dot", cx=x(px), cy=y(py), r=2.2)
            if py == line[-1][1] and px == line[-1][0]:
                inside = x(px) > left + width - 24
                anchor = "end" if inside else "start"
                place = x(px) - 5 if inside else x(px) + 5
                add(root, "text", "value", f"{size:,}", x=place, y=y(py) + 3, text_anchor=anchor)
        whole = f", {axis.size:,}"
        room = int((width + _APART / 2) / CHARACTER_WIDTH) - len(whole)
        add(root, "text", "name", f"{shorten(axis.axis, room)}{whole}", x=left, y=top - 7)
        for share in ticks(0, most_x, 3):
            label, at = f"{share:.0%}", x(share)
            add(root, "text", "tick", label, x=at, y=top + _SMALL + 13, text_anchor="middle")
    return Svg(root)


def prediction_chart(search: "SizeSearch") -> Svg | None:
    """The measured loss of each candidate over the predicted; on the line they are equal."""
    pairs = [(each.predicted, each.measured) for each in search.candidates]
    values = [value for pair in pairs for value in pair]
    if not values:
        return None
    low, high = min(values), max(values)
    room = max(0.12 * (high - low), 0.01)
    words = "; ".join(f"predicted {p:.3f}, measured {m:.3f}" for p, m in pairs)
    root = canvas("Predicted and measured loss", _TOP + _PLOT + _BOTTOM, words + ".")
    y = Scale(low - room, high + room, _TOP + _PLOT, _TOP)
    x = Scale(low - room, high + room, _LEFT, _RIGHT)
    _grid(root, y, _LEFT, _RIGHT, labelled=True)
    base = _TOP + _PLOT
    add(root, "path", "axis", d=path([(_LEFT, base), (_RIGHT, base)]))
    add(root, "path", "line comparison", d=path([(_LEFT, base), (_RIGHT, _TOP)]))
    values = ticks(x.low, x.high)
    for value, label in zip(values, tick_labels(values), strict=True):
        add(root, "text", "tick", label, x=x(value), y=base + 14, text_anchor="middle")
    add(root, "text", "title", "predicted, bits per byte", x=_RIGHT, y=base + 31, text_anchor="end")
    for number, (each, (predicted, measured)) in enumerate(
        zip(search.candidates, pairs, strict=True), start=1
    ):
        style = "dot cut" if each.fixed_costs else "dot"
        label = f"{number}, by fixed costs" if each.fixed_costs else str(number)
        add(root, "circle", style, cx=x(predicted), cy=y(measured), r=3.4)
        is_left = x(predicted) < WIDTH - 100
        place, anchor = (7, "start") if is_left else (-7, "end")
        strong = "value strong" if number == 1 else "value"
        add(
            root, "text", strong, label, x=x(predicted) + place, y=y(measured) + 3.5,
            text_anchor=anchor,
        )  # fmt: skip
    return Svg(root)


def _points(axis: "AxisCosts", original: float, parameters: int) -> list[tuple[float, float]]:
    cuts = [(1 - cut.parameters / parameters, cut.bits_per_byte - original) for cut in axis.cuts]
    return [(0.0, 0.0), *cuts]


def _grid(root: Element, y: Scale, left: float, right: float, *, labelled: bool) -> None:
    values = ticks(y.low, y.high, 4)
    for value, label in zip(values, tick_labels(values), strict=True):
        add(root, "path", "grid", d=path([(left, y(value)), (right, y(value))]))
        if labelled:
            add(root, "text", "tick", label, x=left - 5, y=y(value) + 3.5, text_anchor="end")


def render_plan(plan: "Plan") -> str:
    """The page of a measured plan as HTML, without network and scripts. All text is escaped."""
    search = plan.search
    if search is None:
        raise ValueError("nothing was measured")
    chosen = search.candidates[0]
    tables: Sequence[tuple[str, list[tuple[str, ...]]]] = (
        ("Candidates", candidate_rows(search)),
        ("What each axis costs alone", cost_rows(search)),
        ("Stages", stage_rows(plan)),
    )
    return render(
        "plan.html",
        name=Path(plan.model).name,
        plan=plan,
        search=search,
        chosen=chosen,
        remaining=remaining(chosen.sizes),
        way=way,
        number=numbers,
        costs=cost_charts(search.axes, search.original, plan.parameters_before),
        predictions=prediction_chart(search),
        tables=[(title, rows[0], rows[1:]) for title, rows in tables],
    )


def write_plan_page(plan: "Plan", target: Path) -> None:
    """Write the page to `target`, completely or not at all."""
    write_atomically(target, render_plan(plan).encode())
