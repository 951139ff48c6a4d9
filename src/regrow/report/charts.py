"""Charts of losses and mixtures, as inline SVG. Colours come from the style sheet of the page."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from regrow.common.numbers import count
from regrow.report.records import is_worse
from regrow.report.svg import (
    CHARACTER_WIDTH,
    MOST_SHADES,
    WIDTH,
    Element,
    Scale,
    Svg,
    add,
    canvas,
    legend_layout,
    path,
    shorten,
    tick_labels,
    ticks,
)

_LEFT, _RIGHT, _BOTTOM = 40.0, WIDTH - 14.0, 40.0
_PLOT = 168.0
_LINE_HEIGHT = 11.0
MOST_POINTS = 240
"""Points of a line."""

Point = tuple[float, float]
Kind = Literal["plain", "grey", "smooth", "heldout"]
"""How a line is drawn (`Line`)."""


def drawable(value: float) -> bool:
    """Whether a value can be drawn: it is finite, and so small that sums of values are finite."""
    return abs(value) < 1e300


@dataclass(frozen=True)
class Line:
    """One line of a chart through `points` (x, y).

    `kind`: `plain` and `grey`: as it is; `smooth`: the points faint, and before them their moving
    mean; `heldout`: with the points drawn as dots, the values of the first and the last beside
    them, and in the colour of a loss if it rises.
    """

    name: str
    points: Sequence[Point]
    kind: Kind = "heldout"


@dataclass(frozen=True)
class Panel:
    """One of several small charts on the same scales; `points` are (x, y - `reference`)."""

    name: str
    reference: float
    points: Sequence[Point]


@dataclass(frozen=True)
class Step:
    """One score after the cut and after the recovery of a stage; None if not measured (yet)."""

    name: str
    after_cut: float | None
    after_recovery: float | None


def curves(title: str, lines: Sequence[Line], unit: str = "tokens trained") -> Svg | None:
    """A chart of values over tokens, or over another `unit`; None if there is no finite point.

    A point that is not finite leaves a gap. A line has at most MOST_POINTS points; of longer lines,
    means of neighbouring points are drawn.
    """
    drawn = [(line, _segments(line.points)) for line in lines]
    drawn = [(line, segments) for line, segments in drawn if segments]
    if not drawn:
        return None
    points = [point for _, segments in drawn for segment in segments for point in segment]
    low, high = min(y for _, y in points), max(y for _, y in points)
    names = [line.name for line, _ in drawn]
    legend, top = legend_layout(names, _LEFT) if any(names) else ([(0.0, 0.0)] * len(names), 8.0)
    root = canvas(title, top + _PLOT + _BOTTOM, f"Lowest {low:.3g}, highest {high:.3g}.")
    x = Scale(min(0.0, *(x for x, _ in points)), max(x for x, _ in points), _LEFT, _RIGHT)
    y = _y_axis(root, low, high, top, margin=0.12)
    _x_axis(root, x, top + _PLOT, unit)
    heldout = 0
    ends: list[list[tuple[float, float, float]]] = [[], []]
    for (line, segments), (at_x, at_y) in zip(drawn, legend, strict=True):
        style: str = line.kind
        if line.kind == "heldout":
            style = f"heldout h{heldout % 3}"
            heldout += 1
            outer = segments[0][0], segments[-1][-1]
            if is_worse(outer[0][1], outer[1][1]):
                style += " worse"
            for found, (px, py) in zip(ends, outer, strict=True):
                found.append((x(px), y(py), py))
        for segment in segments:
            places = [(x(px), y(py)) for px, py in segment]
            if line.kind == "smooth" and len(places) > 1:
                add(root, "path", "line raw", d=path(places))
                places = smoothed(places)
            add(root, "path", f"line {style}", d=path(places))
            if line.kind == "heldout" or len(places) == 1:
                for cx, cy in places:
                    add(root, "circle", f"dot {style}", cx=cx, cy=cy, r=2.6)
        if not line.name:
            continue
        add(root, "path", f"line {style}", d=path([(at_x, at_y - 4), (at_x + 16, at_y - 4)]))
        if line.kind == "heldout":
            add(root, "circle", f"dot {style}", cx=at_x + 8, cy=at_y - 4, r=2.6)
        add(root, "text", "label", shorten(line.name, 24), x=at_x + 21, y=at_y)
    for found, anchor, apart in zip(ends, ("start", "end"), (4, -4), strict=True):
        _label_ends(root, found, anchor, apart)
    return Svg(root)


def _label_ends(
    root: Element, ends: Sequence[tuple[float, float, float]], anchor: str, apart: float
) -> None:
    """Write the values (x, y, value) at the ends of lines: above, or below if that is taken."""
    taken = -math.inf
    for at_x, at_y, value in sorted(ends, key=lambda end: end[1]):
        place = at_y - 6 if at_y - 6 - taken > _LINE_HEIGHT else max(at_y, taken) + 13
        taken = place
        label = f"{value:.3f}" if abs(value) < 1e4 else f"{value:.1e}"
        add(root, "text", "value", label, x=at_x + apart, y=place, text_anchor=anchor)


def smoothed(points: Sequence[Point]) -> list[Point]:
    """Each point at the mean of its neighbours, which count less the farther they are.

    The weights are a bell curve over the numbers of the points. Its standard deviation grows with
    the root of their count, so that a few points are smoothed too.
    """
    width = max(1.0, 0.7 * math.sqrt(len(points)))
    reach = math.ceil(3 * width)
    weights = [math.exp(-((step / width) ** 2) / 2) for step in range(reach + 1)]
    found = []
    for number_, (x, _) in enumerate(points):
        first, last = max(0, number_ - reach), min(len(points), number_ + reach + 1)
        near = [(weights[abs(number_ - other)], points[other][1]) for other in range(first, last)]
        total = sum(weight for weight, _ in near)
        found.append((x, sum(weight * y for weight, y in near) / total))
    return found


def journey(
    title: str,
    original: float | None,
    steps: Sequence[Step],
    references: Sequence[tuple[str, float | None]] = (),
    digits: int = 2,
) -> Svg | None:
    """A chart of one score from the original through each cut (dashed) and recovery (solid).

    A missing cut or recovery is skipped. A score that is not finite leaves a gap.

    `references`: scores of other models by name, drawn as horizontal lines.

    None if fewer than two finite values were measured.
    """
    values = [original, *itertools.chain(*((s.after_cut, s.after_recovery) for s in steps))]
    known = [value for value in values if value is not None and drawable(value)]
    if len(known) < 2:
        return None
    drawn = [(name, value) for name, value in references if value is not None and drawable(value)]
    known += [value for _, value in drawn]
    top = 22.0
    root = canvas(title, top + _PLOT + 28, _describe_journey(original, steps, digits))
    y = _y_axis(root, min(known), max(known), top, margin=0.14)
    x = Scale(0, len(values) - 1, _LEFT + 20, _RIGHT - 14)
    for name, level in drawn:
        add(root, "path", "line comparison", d=path([(_LEFT, y(level)), (_RIGHT, y(level))]))
        below = y(level) < top + _PLOT / 2
        place = y(level) + (12 if below else -5)
        add(root, "text", "label", name, x=_RIGHT, y=place, text_anchor="end")
    previous: tuple[Point, float] | None = None
    dots: list[tuple[Point, str, float]] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        if not drawable(value):
            previous = None
            continue
        here = (x(index), y(value))
        style = "cut" if index % 2 == 1 else "regrown"
        if previous is not None:
            if style == "regrown" and is_worse(previous[1], value):
                style = "regrown worse"
            add(root, "path", f"line {style}", d=path([previous[0], here]))
        dots.append((here, style, value))
        previous = here, value
    for (cx, cy), style, value in dots:
        cut = style == "cut"
        add(root, "circle", f"dot {style}", cx=cx, cy=cy, r=3.4)
        if len(dots) <= 9:
            place = cy - 8 if cut else min(cy + 17, top + _PLOT)
            label = f"{value:.{digits}f}" if abs(value) < 1e4 else f"{value:.1e}"
            style = "value" if cut else "value strong"
            add(root, "text", style, label, x=cx, y=place, text_anchor="middle")
    base = top + _PLOT + 15
    room = max(3, int((x(2) - x(0)) / CHARACTER_WIDTH)) if len(values) > 2 else 12
    add(root, "text", "label", shorten("original", room), x=x(0), y=base, text_anchor="middle")
    for number_, step in enumerate(steps):
        middle = x(2 * number_ + 1.6)
        add(root, "text", "label", shorten(step.name, room), x=middle, y=base, text_anchor="middle")
    return Svg(root)


def _describe_journey(original: float | None, steps: Sequence[Step], digits: int) -> str:
    def shown(value: float | None) -> str:
        return "not measured" if value is None else f"{value:.{digits}f}"

    parts = [f"original {shown(original)}"]
    parts += [
        f"{s.name} {shown(s.after_cut)} after the cut, {shown(s.after_recovery)} after recovery"
        for s in steps
    ]
    return "; ".join(parts) + "."


def mixture(title: str, rows: Sequence[tuple[float, Mapping[str, float]]]) -> Svg | None:
    """A stacked chart of the share of each component over tokens; None below two points.

    `rows`: tokens, and shares by component, which need not add up to 1.
    """
    kept = sorted(
        ((x, shares) for x, shares in rows if _is_mixture(x, shares)), key=lambda row: row[0]
    )
    if len(kept) < 2:
        return None
    step = math.ceil((len(kept) - 1) / (MOST_POINTS - 1))
    kept = [*kept[:-1:step], kept[-1]]
    names = list(dict.fromkeys(name for _, shares in kept for name in shares))
    legend, top = legend_layout(names, _LEFT)
    root = canvas(title, top + _PLOT + _BOTTOM, _last_mixture(kept[-1][1]))
    x = Scale(kept[0][0], kept[-1][0], _LEFT, _RIGHT)
    y = Scale(0, 1, top + _PLOT, top)
    bottoms = [0.0] * len(kept)
    for index, (name, (at_x, at_y)) in enumerate(zip(names, legend, strict=True)):
        tops = [
            bottom + shares.get(name, 0.0) / sum(shares.values())
            for bottom, (_, shares) in zip(bottoms, kept, strict=True)
        ]
        upper = [(x(at), y(value)) for (at, _), value in zip(kept, tops, strict=True)]
        lower = [(x(at), y(value)) for (at, _), value in zip(kept, bottoms, strict=True)]
        style = f"area s{index % MOST_SHADES}"
        add(root, "path", style, d=path(upper + lower[::-1]) + "Z")
        add(root, "rect", style, x=at_x, y=at_y - 9, width=10, height=10, rx=2)
        add(root, "text", "label", shorten(name, 24), x=at_x + 15, y=at_y)
        bottoms = tops
    for share in (0, 0.5, 1):
        add(root, "text", "tick", f"{share:.0%}", x=_LEFT - 5, y=y(share) + 3.5, text_anchor="end")
    _x_axis(root, x, top + _PLOT)
    return Svg(root)


def gaps(title: str, panels: Sequence[Panel]) -> Svg | None:
    """A small chart for each component: its loss minus its reference, which is the dotted line.

    None if there is no finite point.
    """
    drawn = [(panel, _segments(panel.points)) for panel in panels]
    drawn = [(panel, segments) for panel, segments in drawn if segments]
    if not drawn:
        return None
    points = [point for _, segments in drawn for segment in segments for point in segment]
    low, high = min(0.0, *(y for _, y in points)), max(0.0, *(y for _, y in points))
    across = min(4, len(drawn))
    rows = -(-len(drawn) // across)
    height, pitch, apart = 58.0, 84.0, 12.0
    width = (_RIGHT - _LEFT - (across - 1) * apart) / across
    ends = "; ".join(f"{panel.name} {s[-1][-1][1]:+.3g}" for panel, s in drawn)
    root = canvas(title, rows * pitch + 18, f"At the end {ends}.")
    end = max(x for x, _ in points)
    tick_values = ticks(low, high, most=4)
    for number_, (panel, segments) in enumerate(drawn):
        row, column = divmod(number_, across)
        left, top = _LEFT + column * (width + apart), row * pitch + 18
        x = Scale(min(0.0, *(x for x, _ in points)), end, left, left + width)
        y = Scale(low, high, top + height, top)
        for value, label in zip(tick_values, tick_labels(tick_values), strict=True):
            add(root, "path", "grid", d=path([(left, y(value)), (left + width, y(value))]))
            if column == 0:
                add(root, "text", "tick", label, x=left - 5, y=y(value) + 3.5, text_anchor="end")
        add(root, "path", "line comparison", d=path([(left, y(0)), (left + width, y(0))]))
        for segment in segments:
            places = [(x(px), y(py)) for px, py in segment]
            add(root, "path", "line", d=path(places))
            if len(places) == 1:
                add(root, "circle", "dot", cx=places[0][0], cy=places[0][1], r=2)
        add(root, "text", "name", shorten(panel.name, 7), x=left, y=top - 6)
        last = panel.reference + segments[-1][-1][1]
        right = left + width
        add(root, "text", "value", f"{last:.2f}", x=right, y=top - 6, text_anchor="end")
    add(root, "text", "title", f"{_tokens(end)} tokens across", x=_RIGHT, y=rows * pitch + 2,
        text_anchor="end")  # fmt: skip
    return Svg(root)


def _is_mixture(x: float, shares: Mapping[str, float]) -> bool:
    total = sum(shares.values())
    return math.isfinite(x) and 0 < total < math.inf and min(shares.values()) >= 0


def _last_mixture(shares: Mapping[str, float]) -> str:
    total = sum(shares.values())
    return "At the end " + ", ".join(f"{n} {s / total:.0%}" for n, s in shares.items()) + "."


def _segments(points: Sequence[Point]) -> list[list[Point]]:
    """The points sorted by x, averaged, and split where a value is not finite."""
    ordered = sorted((p for p in points if drawable(p[0])), key=lambda point: point[0])
    size = max(1, math.ceil(len(ordered) / MOST_POINTS))
    averaged = [_mean(ordered[at : at + size]) for at in range(0, len(ordered), size)]
    groups = itertools.groupby(averaged, key=lambda point: drawable(point[1]))
    return [list(group) for finite, group in groups if finite]


def _mean(points: Sequence[Point]) -> Point:
    if len(points) == 1:
        return points[0]
    n = len(points)
    known = all(drawable(y) for _, y in points)
    return points[-1][0], math.fsum(y / n for _, y in points) if known else math.nan


def _y_axis(root: Element, low: float, high: float, top: float, margin: float = 0.04) -> Scale:
    """Draw the y axis from `low` to `high`, with a margin as a fraction of their distance."""
    room = margin * (high - low)
    scale = Scale(low - room, high + room, top + _PLOT, top)
    values = ticks(scale.low, scale.high)
    for value, label in zip(values, tick_labels(values), strict=True):
        add(root, "path", "grid", d=path([(_LEFT, scale(value)), (_RIGHT, scale(value))]))
        add(root, "text", "tick", label, x=_LEFT - 5, y=scale(value) + 3.5, text_anchor="end")
    return scale


def _x_axis(root: Element, scale: Scale, base: float, unit: str = "tokens trained") -> None:
    add(root, "path", "axis", d=path([(_LEFT, base), (_RIGHT, base)]))
    for value in ticks(scale.low, scale.high):
        anchor = "end" if scale(value) > _RIGHT - 12 else "middle"
        add(root, "text", "tick", _tokens(value), x=scale(value), y=base + 14, text_anchor=anchor)
    add(root, "text", "title", unit, x=_RIGHT, y=base + 31, text_anchor="end")


def _tokens(value: float) -> str:
    text = count(value, 2)
    return text if "." not in text else text[:-1].rstrip("0").rstrip(".") + text[-1]
