"""The page of a comparison: quality over parameters and over speed, and the differences."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report.comparison_tables import (
    difference_rows,
    generation_note,
    generation_rows,
    kept,
    model_rows,
    short_names,
)
from regrow.report.svg import WIDTH, Scale, Svg, add, canvas, path, shorten, ticks
from regrow.report.templates import render

if TYPE_CHECKING:
    from regrow.evaluation.comparison import Comparison

_LEFT, _RIGHT, _TOP, _PLOT, _BOTTOM = 44.0, WIDTH - 14.0, 12.0, 190.0, 30.0


def quality_chart(found: "Comparison") -> Svg | None:
    """The quality that each model has kept, over its parameters; None if it is not known."""
    sizes = [model.parameters for model in found.models]
    return _quality_over(found, sizes, "parameters", numbers.count)


def speed_chart(found: "Comparison") -> Svg | None:
    """The quality that each model has kept, over its tokens/s; None if one of them is not known."""
    if not found.speeds:
        return None
    return _quality_over(found, [speed.median for speed in found.speeds], "tokens/s", numbers.rate)


def _quality_over(
    found: "Comparison", values: Sequence[float], unit: str, shown: Callable[[float], str]
) -> Svg | None:
    """A point for each model: its quality, over its value of something; None below two points."""
    points = [
        (name, value, share)
        for name, value, share in zip(short_names(found), values, kept(found), strict=True)
        if share is not None and math.isfinite(share)
    ]
    if len(points) < 2:
        return None
    words = "; ".join(f"{name}: {shown(value)}, {share:.0%}" for name, value, share in points)
    root = canvas(f"Quality over {unit}", _TOP + _PLOT + _BOTTOM, f"{words}.")
    low, high = min(0.0, *(share for *_, share in points)), max(share for *_, share in points)
    base = _TOP + _PLOT
    y = Scale(low, 1.06 * high, base, _TOP)
    x = Scale(0, 1.04 * max(size for _, size, _ in points), _LEFT, _RIGHT)
    for value in ticks(y.low, y.high, 5):
        add(root, "path", "grid", d=path([(_LEFT, y(value)), (_RIGHT, y(value))]))
        label = f"{value:.0%}"
        add(root, "text", "tick", label, x=_LEFT - 5, y=y(value) + 3.5, text_anchor="end")
    add(root, "path", "axis", d=path([(_LEFT, y(0)), (_RIGHT, y(0))]))
    for value in ticks(x.low, x.high, 5):
        label = shown(value)
        add(root, "text", "tick", label, x=x(value), y=base + 14, text_anchor="middle")
    add(root, "text", "tick", unit, x=_RIGHT, y=base + 27, text_anchor="end")
    for name, size, share in points:
        add(root, "circle", "dot", cx=x(size), cy=y(share), r=3.4)
        is_left = x(size) < WIDTH / 2
        place, anchor = (7, "start") if is_left else (-7, "end")
        label = f"{shorten(name, 24)} {share:.0%}"
        add(root, "text", "value", label, x=x(size) + place, y=y(share) + 3.5, text_anchor=anchor)
    return Svg(root)


def render_comparison(found: "Comparison") -> str:
    """The page as HTML, without network and scripts. All text is escaped."""
    first, *others = names = short_names(found)
    tables = [("Models", model_rows(found, names), 1, "")]
    if found.speeds:
        tables.append(("Generation", generation_rows(found, names), 1, generation_note(found)))
    tables += [
        (f"{name} against {first}", difference_rows(found, each), 2, "")
        for name, each in zip(others, found.compared, strict=True)
        if found.models[0].tasks
    ]
    charts = [("its parameters", quality_chart(found)), ("its tokens/s", speed_chart(found))]
    return render(
        "comparison.html",
        name=f"{', '.join(names[:-1])} and {names[-1]}",
        questions=sum(score.questions for score in found.models[0].tasks),
        charts=[(over, chart) for over, chart in charts if chart is not None],
        tables=[(title, rows[0], rows[1:], texts, note) for title, rows, texts, note in tables],
    )


def write_comparison_page(found: "Comparison", target: Path) -> None:
    """Write the page to `target`, completely or not at all."""
    write_atomically(target, render_comparison(found).encode())
