"""The page of a vocabulary plan, with charts of coverage and text length over size."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report.svg import WIDTH, Scale, Svg, add, canvas, legend_layout, path, shorten, ticks
from regrow.report.templates import render

if TYPE_CHECKING:
    from regrow.vocabulary.sizing import VocabularyPlan

_LEFT, _RIGHT, _PLOT, _BOTTOM = 46.0, WIDTH - 14.0, 190.0, 40.0
_LEAST_SHARE = 1e-5
_STYLES = ("line regrown", "line h1", "line h2", "line cut", "line comparison", "line grey")
"""The style of the line for all text, then of those for the languages."""


def share_chart(
    title: str, curves: Mapping[str, Sequence[tuple[int, float]]], marked_sizes: Mapping[str, int]
) -> Svg | None:
    """A chart of shares over sizes of the vocabulary, both axes logarithmic.

    `marked_sizes`: sizes to mark, by label. None if no curve has two shares of at least 1e-5.
    """
    drawn = {
        name: [(size, share) for size, share in points if share >= _LEAST_SHARE]
        for name, points in list(curves.items())[: len(_STYLES)]
    }
    drawn = {name: points for name, points in drawn.items() if len(points) > 1}
    if not drawn:
        return None
    legend, top = legend_layout(list(drawn), _LEFT)
    points = [point for line in drawn.values() for point in line]
    sizes = [size for size, _ in points] + list(marked_sizes.values())
    shares = [share for _, share in points]
    x = Scale(math.log(min(sizes)), math.log(max(sizes)), _LEFT, _RIGHT)
    y = Scale(math.log(min(shares)), math.log(max(shares)), top + _PLOT, top)
    description = "; ".join(f"{name} {size:,}" for name, size in marked_sizes.items())
    root = canvas(title, top + _PLOT + _BOTTOM, description + "." if description else "")
    for exponent in range(-5, 1):
        if min(shares) <= (share := 10.0**exponent) <= max(shares):
            at = y(math.log(share))
            add(root, "path", "grid", d=path([(_LEFT, at), (_RIGHT, at)]))
            label = f"{share:.3%}".rstrip("0%").rstrip(".") + "%"
            add(root, "text", "tick", label, x=_LEFT - 5, y=at + 3.5, text_anchor="end")
    base = top + _PLOT
    add(root, "path", "axis", d=path([(_LEFT, base), (_RIGHT, base)]))
    for size in _round_sizes(min(sizes), max(sizes)):
        label = numbers.count(size, 0) if size >= 10_000 else f"{size:,}"
        add(root, "text", "tick", label, x=x(math.log(size)), y=base + 14, text_anchor="middle")
    add(root, "text", "title", "tokens in the vocabulary", x=_RIGHT, y=base + 31, text_anchor="end")
    for number, (name, size) in enumerate(marked_sizes.items()):
        at = x(math.log(size))
        add(root, "path", "line comparison", d=path([(at, top), (at, base)]))
        is_left = at < (_LEFT + _RIGHT) / 2
        place, anchor = (at + 4, "start") if is_left else (at - 4, "end")
        add(
            root, "text", "value strong", f"{name} {size:,}", x=place, y=top + 10 + 13 * number,
            text_anchor=anchor,
        )  # fmt: skip
    for style, line, (at_x, at_y), name in zip(
        _STYLES, drawn.values(), legend, drawn, strict=False
    ):
        add(root, "path", style, d=path([(x(math.log(a)), y(math.log(b))) for a, b in line]))
        add(root, "path", style, d=path([(at_x, at_y - 4), (at_x + 16, at_y - 4)]))
        add(root, "text", "label", shorten(name, 24), x=at_x + 21, y=at_y)
    return Svg(root)


def _round_sizes(low: int, high: int) -> list[int]:
    """At most some eight round sizes: 1, 2 or 5 times a power of ten; in a narrow range, ticks."""
    if high < 10 * low:
        return [round(value) for value in ticks(low, high, 4)]
    found = [
        digit * 10**power
        for power in range(8)
        for digit in (1, 2, 5)
        if low <= digit * 10**power <= high
    ]
    return found[::-1][:: -(-len(found) // 8)][::-1]


def render_vocabulary(plan: "VocabularyPlan") -> str:
    """The page as HTML, without network and scripts. All text is escaped."""
    from regrow.vocabulary.plan_tables import language_rows, percent, size_rows
    from regrow.vocabulary.scripts import ALL

    before, after = plan.sizes[0], plan.at(plan.chosen)
    marked_sizes = {"suggested": plan.suggested}
    if plan.chosen != plan.suggested:
        marked_sizes["asked for"] = plan.chosen
    largest = sorted(plan.shares, key=lambda name: -plan.shares[name])[: len(_STYLES) - 1]
    curves = {name: plan.curve[name] for name in (ALL, *(largest if len(largest) > 1 else ()))}
    return render(
        "vocabulary.html",
        plan=plan,
        name=plan.model.name,
        before=before,
        after=after,
        change=numbers.change(before.parameters, after.parameters, 1),
        longer=plan.longer(plan.chosen),
        number=numbers,
        percent=percent,
        missing=share_chart(
            "Share of the corpus that is not covered, by size", curves, marked_sizes
        ),
        lengthened=share_chart(
            "How much longer text gets, by size", _longer(plan, curves), marked_sizes
        ),
        tables=[(rows[0], rows[1:]) for rows in (size_rows(plan), language_rows(plan))],
        reasons={
            reason: plan.choice.reasons.count(reason)
            for reason in dict.fromkeys(plan.choice.reasons)
        },
    )


def _longer(
    plan: "VocabularyPlan", names: Iterable[str]
) -> dict[str, tuple[tuple[int, float], ...]]:
    """How much longer text gets at each measured size, as a share, for all text and by language."""
    from regrow.vocabulary.scripts import ALL

    found = {}
    for name in names:
        only = None if name == ALL else name
        rows = [(row.size, plan.longer(row.size, only)) for row in plan.sizes[:0:-1]]
        found[name] = tuple((size, value - 1) for size, value in rows if value is not None)
    return found


def write_vocabulary_page(plan: "VocabularyPlan", target: Path) -> None:
    """Write the page to `target`, completely or not at all."""
    write_atomically(target, render_vocabulary(plan).encode())
