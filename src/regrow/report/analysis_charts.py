"""The charts of an analysis: losses along depth and width, layers, heads, and the vocabulary."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from regrow.common.numbers import count, decimal
from regrow.report.svg import (
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

if TYPE_CHECKING:
    from regrow.surgery.analysis.analysis import Analysis, Importance, LossLine
    from regrow.vocabulary.sizing import VocabularyCurve

_LEFT, _RIGHT, _PLOT, _BOTTOM = 40.0, WIDTH - 14.0, 168.0, 28.0
_STYLES = ("", "h1", "h2", "cut", "train")
_BARS = 96.0
_CLIP = 4.0
"""A bar longer than so many times the third quartile is cut off, and its value written."""
_LABEL = 28.0
"""The room of the value of a bar."""
_LABEL_ROWS, _ROW = 3, 11.0
_WIDEST_BAR = 24.0
_LEAST_SPAN = 0.05
"""A line chart spans at least so many bits per byte, so that rounding does not look like a loss."""
_SHADES = 5

Point = tuple[float, float]


def line_chart(analysis: "Analysis") -> Svg | None:
    """Bits per byte over the share of the parameters that goes, for depth and for width.

    None if nothing was measured. (OpenBA-V2, figure 5.)
    """
    lines = [(line.name, _points(line, analysis)) for line in analysis.lines]
    if not lines:
        return None
    return lines_over_shares("Loss by depth and width", lines, "of the parameters cut")


def refit_chart(analysis: "Analysis", line: "LossLine") -> Svg | None:
    """Bits per byte of one line with and without a refit; None if there is no refit."""
    plain = [
        (_gone(cut.parameters, analysis), cut.without_refit)
        for cut in line.cuts
        if cut.without_refit is not None
    ]
    if not plain:
        return None
    first = [(0.0, analysis.original)]
    pairs = [("refitted", _points(line, analysis)), ("not refitted", [*first, *plain])]
    title = f"Loss by {line.name} with and without a refit"
    return lines_over_shares(title, pairs, "of the parameters cut")


def _points(line: "LossLine", analysis: "Analysis") -> list[Point]:
    cuts = [(_gone(cut.parameters, analysis), cut.bits_per_byte) for cut in line.cuts]
    return [(0.0, analysis.original), *cuts]


def _gone(parameters: int, analysis: "Analysis") -> float:
    return 1 - parameters / analysis.parameters


def lines_over_shares(title: str, lines: Sequence[tuple[str, Sequence[Point]]], unit: str) -> Svg:
    """Lines over shares of a `unit`, with a dot at each point (share, value)."""
    points = [point for _, line in lines for point in line]
    low, high = min(y for _, y in points), max(y for _, y in points)
    legend, top = legend_layout([name for name, _ in lines], _LEFT)
    ends = "; ".join(f"{name} {line[-1][1]:.3f}" for name, line in lines)
    root = canvas(title, top + _PLOT + _BOTTOM, f"At the most that was cut: {ends}.")
    high = max(high, low + _LEAST_SPAN)
    room = 0.04 * (high - low)
    y = Scale(low - room, high + room, top + _PLOT, top)
    x = Scale(0, max(x for x, _ in points), _LEFT, _RIGHT)
    _y_grid(root, y)
    _x_shares(root, x, top + _PLOT, unit)
    for number, ((name, line), (at_x, at_y)) in enumerate(zip(lines, legend, strict=True)):
        style = _STYLES[number % len(_STYLES)]
        add(root, "path", f"line {style}", d=path([(x(px), y(py)) for px, py in line]))
        for px, py in line:
            add(root, "circle", f"dot {style}", cx=x(px), cy=y(py), r=2.6)
        add(root, "path", f"line {style}", d=path([(at_x, at_y - 4), (at_x + 16, at_y - 4)]))
        add(root, "circle", f"dot {style}", cx=at_x + 8, cy=at_y - 4, r=2.6)
        add(root, "text", "label", shorten(name, 24), x=at_x + 21, y=at_y)
    return Svg(root)


def layer_chart(title: str, values: Sequence[float], digits: int = 2) -> Svg | None:
    """A bar for each layer, down for values below 0; None without layers.

    A bar that would dwarf the others, or has no finite value, is cut off, and its value stands at
    its end.
    """
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return None
    ordered = sorted(map(abs, finite))
    most = ordered[-1]
    usual = ordered[min(len(ordered) - 1, 3 * len(ordered) // 4)]
    limit = most if usual == 0 or most <= _CLIP * usual else _CLIP * usual
    low, high = max(min(0.0, *finite), -limit), min(max(0.0, *finite), limit)
    top, labelled = 38.0, [-math.inf] * _LABEL_ROWS
    cheapest = values.index(min(finite))
    root = canvas(title, top + _BARS + _BOTTOM, f"The least is layer {cheapest}.")
    y = Scale(low, high if high > low else low + 1, top + _BARS, top)
    _y_grid(root, y)
    step = (_RIGHT - _LEFT) / len(values)
    width = min(_WIDEST_BAR, max(1.0, step - (2.0 if step > 5 else 0.5)))
    for layer, value in enumerate(values):
        shown = min(max(value, low), high) if math.isfinite(value) else high
        begin, end = sorted((y(0), y(shown)))
        x = _LEFT + layer * step + (step - width) / 2
        is_cut_off = shown != value
        style = "bar before" if is_cut_off else "bar after"
        add(root, "rect", style, x=x, y=begin, width=width, height=max(end - begin, 0.6))
        if is_cut_off:
            middle = min(max(x + width / 2, _LEFT + 8), _RIGHT - 8)
            label = decimal(value, digits)
            # The first row in which the label is beside no other; else that with most room.
            free = (row for row in range(_LABEL_ROWS) if middle - labelled[row] >= _LABEL)
            row = next(free, min(range(_LABEL_ROWS), key=lambda row: labelled[row]))
            labelled[row] = middle
            height = 4 + _ROW * row
            place = begin - height if shown > 0 else begin + (end - begin) + height + 6
            add(root, "text", "value", label, x=middle, y=place, text_anchor="middle")
    every = next(n for n in (1, 2, 5, 10, 20, 50, 100, 1000) if n * step >= 20)
    for layer in range(0, len(values), every):
        at = _LEFT + (layer + 0.5) * step
        add(root, "text", "tick", f"{layer}", x=at, y=top + _BARS + 14, text_anchor="middle")
    add(root, "text", "tick", "layer", x=_RIGHT, y=top + _BARS + 25, text_anchor="end")
    return Svg(root)


def head_chart(importance: "Importance") -> Svg | None:
    """A cell for each head of each layer, the darker the more important it is in its layer.

    None if the model has no heads, or one score for all layers.
    """
    rows = importance.rows
    if len(rows) < 2 or len(rows[0]) < 2:
        return None
    left, height = 26.0, max(5.0, min(12.0, 200.0 / len(rows)))
    title = f"Importance of the heads ({importance.axis})"
    root = canvas(title, height * len(rows) + 18, f"By {importance.by}, {len(rows)} layers.")
    step = (WIDTH - left) / len(rows[0])
    spacing = math.ceil(11 / height)
    for layer, row in enumerate(rows):
        y, most = layer * height, max(row)
        for head, value in enumerate(row):
            level = round(_SHADES * max(value, 0.0) / most) if most > 0 else 0
            add(root, "rect", f"cell l{level}", x=left + head * step, y=y, width=step - 1,
                height=height - 1)  # fmt: skip
        if layer % spacing == 0:
            middle = y + height / 2 + 3
            add(root, "text", "tick", str(layer), x=left - 5, y=middle, text_anchor="end")
    base = height * len(rows) + 12
    add(root, "text", "tick", "head 0", x=left, y=base)
    add(root, "text", "tick", str(len(rows[0]) - 1), x=WIDTH, y=base, text_anchor="end")
    return Svg(root)


def vocabulary_chart(curve: "VocabularyCurve") -> Svg | None:
    """The share of the text's tokens that a vocabulary keeps, over its size (logarithmic).

    None if there are fewer than two sizes. (OpenBA-V2, figure 8.)
    """
    points = [(size, 1 - share) for size, share in curve.not_covered]
    if len(points) < 2:
        return None
    top, low = 12.0, min(share for _, share in points)
    words = f"{curve.suggested:,} tokens are suggested."
    root = canvas("Share of the text's tokens that is kept", top + _PLOT + _BOTTOM, words)
    x = Scale(math.log(points[0][0]), math.log(points[-1][0]), _LEFT, _RIGHT)
    y = Scale(low - 0.04 * (1 - low), 1, top + _PLOT, top)
    values = [value for value in ticks(y.low, y.high) if value <= 1]
    digits = 0 if 1 - low > 0.05 else 1
    for value in values:
        add(root, "path", "grid", d=path([(_LEFT, y(value)), (_RIGHT, y(value))]))
        label = f"{value:.{digits}%}"
        add(root, "text", "tick", label, x=_LEFT - 5, y=y(value) + 3.5, text_anchor="end")
    base = top + _PLOT
    add(root, "path", "axis", d=path([(_LEFT, base), (_RIGHT, base)]))
    for size in _sizes(points[0][0], points[-1][0]):
        at = x(math.log(size))
        label = count(size, 0) if size >= 10_000 else f"{size:,}"
        add(root, "text", "tick", label, x=at, y=base + 14, text_anchor="middle")
    add(root, "text", "tick", "tokens in the vocabulary", x=_RIGHT, y=base + 25, text_anchor="end")
    at = x(math.log(min(max(curve.suggested, points[0][0]), points[-1][0])))
    add(root, "path", "line comparison", d=path([(at, top), (at, base)]))
    is_left = at < (_LEFT + _RIGHT) / 2
    place, anchor = (at + 4, "start") if is_left else (at - 4, "end")
    label = f"suggested {curve.suggested:,}"
    add(root, "text", "value strong", label, x=place, y=base - 8, text_anchor=anchor)
    drawn = [(x(math.log(size)), y(share)) for size, share in points]
    add(root, "path", "line regrown", d=path(drawn))
    return Svg(root)


def _sizes(low: int, high: int) -> list[int]:
    """Round sizes between two: 1, 2 or 5 times a power of ten, or fewer."""
    found = [d * 10**p for p in range(8) for d in (1, 2, 5) if low <= d * 10**p <= high]
    return found[:: -(-len(found) // 8)] if found else [low, high]


def _y_grid(root: Element, y: Scale) -> None:
    values = ticks(y.low, y.high)
    for value, label in zip(values, tick_labels(values), strict=True):
        add(root, "path", "grid", d=path([(_LEFT, y(value)), (_RIGHT, y(value))]))
        add(root, "text", "tick", label, x=_LEFT - 5, y=y(value) + 3.5, text_anchor="end")


def _x_shares(root: Element, x: Scale, base: float, unit: str) -> None:
    add(root, "path", "axis", d=path([(_LEFT, base), (_RIGHT, base)]))
    for share in ticks(0, x.high):
        anchor = "end" if x(share) > _RIGHT - 12 else "middle"
        add(root, "text", "tick", f"{share:.0%}", x=x(share), y=base + 14, text_anchor=anchor)
    add(root, "text", "tick", unit, x=_RIGHT, y=base + 25, text_anchor="end")
