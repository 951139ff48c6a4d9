"""A chart of the indices that a cut keeps along an axis, as inline SVG."""

import itertools
import math
from collections.abc import Sequence

from regrow.report.svg import WIDTH, Svg, add, canvas, number

MOST_CELLS = 96
"""Cells of a row of kept indices."""


def strip(
    title: str,
    before: int,
    rows: Sequence[tuple[str, Sequence[int]]],
    index_name: str = "",
    most_cells: int = MOST_CELLS,
) -> Svg | None:
    """The kept indices of an axis of `before` indices, as a row of cells for each (label, kept).

    A cell is one index. If there are more than `most_cells`, it is a span of indices, shaded by the
    fraction of them that was kept.

    `index_name`: what an index counts, which is written below.
    """
    if before == 0 or not rows:
        return None
    cells = min(before, most_cells)
    labelled = any(label for label, _ in rows)
    start = 26.0 if labelled else 0.0
    height = 18.0 if len(rows) == 1 else max(5.0, min(12.0, 200.0 / len(rows)))
    kept = sum(len(indices) for _, indices in rows)
    description = f"{kept / (before * len(rows)):.0%} of {before:,} kept."
    root = canvas(title, height * len(rows) + (30 if index_name or labelled else 16), description)
    step = (WIDTH - start) / cells
    gap = 1.0 if cells <= 48 else 0.0
    levels: dict[int, list[str]] = {level: [] for level in range(6)}
    spacing = math.ceil(10 / height)
    for row, (label, indices) in enumerate(rows):
        y = row * height
        for level, run in itertools.groupby(
            enumerate(_shares(before, indices, cells)), key=lambda item: math.ceil(5 * item[1])
        ):
            columns = [column for column, _ in run]
            if gap:
                spans = [(start + c * step, step - gap) for c in columns]
            else:
                spans = [(start + columns[0] * step, step * len(columns))]
            for x, width in spans:
                inner = height - (1.0 if len(rows) > 1 else 0.0)
                w, h = number(width), number(inner)
                levels[level].append(f"M{number(x)} {number(y)}h{w}v{h}h-{w}Z")
        if label and row % spacing == 0:
            add(root, "text", "tick", label, x=start - 5, y=y + height / 2 + 3, text_anchor="end")
    for level, pieces in levels.items():
        if pieces:
            add(root, "path", f"cell l{level}", d="".join(pieces))
    base = height * len(rows) + 12
    add(root, "text", "tick", "0", x=start, y=base)
    add(root, "text", "tick", f"{before - 1:,}", x=WIDTH, y=base, text_anchor="end")
    if index_name:
        add(root, "text", "title", index_name, x=WIDTH, y=base + 15, text_anchor="end")
    if labelled:
        add(root, "text", "title", "layer", x=0, y=base + 15)
    return Svg(root)


def _shares(before: int, kept: Sequence[int], cells: int) -> list[float]:
    """The fraction of indices that was kept, by cell."""
    found, spans = [0] * cells, [0] * cells
    for index in kept:
        found[index * cells // before] += 1
    for cell in range(cells):
        spans[cell] = -(-(cell + 1) * before // cells) - (-(-cell * before // cells))
    return [a / b for a, b in zip(found, spans, strict=True)]
