"""Build SVG as an element tree, so that all text in it is escaped."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

Element = ElementTree.Element
WIDTH = 360.0
"""The width of a chart, in user units."""
MOST_SHADES = 7
"""Colours of areas in the style sheet."""
CHARACTER_WIDTH = 5.8
"""The mean width of a character at the font size of the style sheet."""


@dataclass(frozen=True)
class Svg:
    """An inline SVG, which templates insert without escaping it again."""

    root: Element

    def __html__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode")


def canvas(title: str, height: float, description: str = "") -> Element:
    """An `svg` element of width WIDTH, which screen readers present as one image with a title."""
    label = f"{title}. {description}" if description else title
    root = ElementTree.Element(
        "svg",
        {"viewBox": f"0 0 {number(WIDTH)} {number(height)}", "role": "img", "aria-label": label},
    )
    ElementTree.SubElement(root, "title").text = title
    if description:
        ElementTree.SubElement(root, "desc").text = description
    return root


def add(parent: Element, tag: str, style: str, content: str = "", **values: float | str) -> Element:
    """Append an element with a CSS class and attributes; `_` in names stands for `-`."""
    element = ElementTree.SubElement(parent, tag, {"class": style})
    for key, value in values.items():
        text = value if isinstance(value, str) else number(value)
        element.set(key.rstrip("_").replace("_", "-"), text)
    if content:
        element.text = content
    return element


def number(value: float) -> str:
    """A coordinate with at most two decimals."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def path(points: Sequence[tuple[float, float]]) -> str:
    """Path data of a line through points."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def shorten(text: str, length: int) -> str:
    """At most `length` characters on one line, with an ellipsis where text is cut off."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1].rstrip() + "…"


def legend_layout(names: Sequence[str], left: float) -> tuple[list[tuple[float, float]], float]:
    """The position of each legend entry, in rows from `left`, and the top of the plot below."""
    places: list[tuple[float, float]] = []
    x, y = left, 11.0
    for name in names:
        width = 36 + CHARACTER_WIDTH * len(shorten(name, 24))
        if places and x + width > WIDTH:
            x, y = left, y + 15
        places.append((x, y))
        x += width
    return places, y + 12


@dataclass(frozen=True)
class Scale:
    """A linear map of [low, high] onto [start, end]; finite for every finite value."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        span = self.high / 2 - self.low / 2
        share = 0.5 if span <= 0 else (value / 2 - self.low / 2) / span
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` round values in [low, high]; `low` alone if there are none."""
    span = high / 2 - low / 2
    exponent = math.floor(math.log10(span)) - 1 if span > 1e-300 else None
    if exponent is None or exponent < -290 or exponent > 300:
        return [low]
    for power in range(exponent, exponent + 4):
        for base in (1, 2, 5):
            step = base * 10.0**power
            first, last = math.ceil(low / step), math.floor(high / step)
            if last - first < most:
                values = [_clean(index * step, power) for index in range(first, last + 1)]
                return [value for value in values if low <= value <= high] or [low]
    return [low]


def _clean(value: float, power: int) -> float:
    return round(value, max(0, -power)) if abs(value) < 1e15 else value


def tick_labels(values: Sequence[float]) -> list[str]:
    """The ticks as text, with as few decimals as show their values."""
    if any(abs(value) >= 1e6 or 0 < abs(value) < 1e-6 for value in values):
        return [f"{value:.2g}" for value in values]
    for digits in range(8):
        labels = [f"{value:,.{digits}f}" for value in values]
        if all(
            abs(float(label.replace(",", "")) - value) < 1e-9
            for label, value in zip(labels, values, strict=True)
        ):
            return labels
    return [f"{value:.3g}" for value in values]
