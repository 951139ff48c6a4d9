"""Charts of the sizes of models, as inline SVG."""

from collections.abc import Mapping, Sequence

from regrow.common.numbers import change, count
from regrow.report.svg import MOST_SHADES, WIDTH, Scale, Svg, add, canvas, legend_layout, shorten


def bars(title: str, rows: Sequence[tuple[str, int, int]]) -> Svg | None:
    """For each (part, before, after), a grey bar above a coloured bar, with both counts."""
    most = max((max(before, after) for _, before, after in rows), default=0)
    if most == 0:
        return None
    pitch, start, end = 34.0, 72.0, WIDTH - 92.0
    description = "; ".join(f"{name} {count(a)} before, {count(b)} after" for name, a, b in rows)
    root = canvas(title, pitch * len(rows) + 2, description + ".")
    length = Scale(0, most, 0, end - start)
    for index, (name, before, after) in enumerate(rows):
        y = index * pitch + 4
        add(root, "text", "label name", shorten(name, 11), x=0, y=y + 15)
        add(root, "rect", "bar before", x=start, y=y, width=length(before), height=9, rx=1.5)
        add(root, "rect", "bar after", x=start, y=y + 12, width=length(after), height=9, rx=1.5)
        figures = start + length(max(before, after)) + 6
        add(root, "text", "value", count(before), x=figures, y=y + 8.5)
        label = count(after) if before == after else f"{count(after)} {change(before, after)}"
        add(root, "text", "value strong", label.rstrip(), x=figures, y=y + 20.5)
    return Svg(root)


def staircase(
    title: str, parts: Sequence[str], rows: Sequence[tuple[str, Mapping[str, int]]]
) -> Svg | None:
    """For each (model, parameters by part), a bar with its parts in order, and the total."""
    most = max((sum(by_part.values()) for _, by_part in rows), default=0)
    if most == 0:
        return None
    legend, top = legend_layout(parts, 0.0)
    named = any(name for name, _ in rows)
    pitch, start, end = 28.0, 84.0 if named else 0.0, WIDTH - 50.0
    totals = "; ".join(f"{name} {count(sum(by_part.values()))}" for name, by_part in rows)
    root = canvas(title, top + pitch * len(rows), totals + ".")
    for part, (at_x, at_y) in enumerate(legend):
        style = f"area s{part % MOST_SHADES}"
        add(root, "rect", style, x=at_x, y=at_y - 9, width=10, height=10, rx=2)
        add(root, "text", "label", shorten(parts[part], 24), x=at_x + 15, y=at_y)
    length = Scale(0, most, 0, end - start)
    for index, (name, by_part) in enumerate(rows):
        y = top + index * pitch + 2
        add(root, "text", "label name", shorten(name, 14), x=0, y=y + 13)
        done = 0
        for part, part_name in enumerate(parts):
            size = by_part.get(part_name, 0)
            x, width = start + length(done), length(done + size) - length(done)
            style = f"area s{part % MOST_SHADES}"
            add(root, "rect", style, x=x, y=y, width=width, height=18)
            done += size
        figure = start + length(sum(by_part.values())) + 6
        add(root, "text", "value strong", count(sum(by_part.values())), x=figure, y=y + 13)
    return Svg(root)
