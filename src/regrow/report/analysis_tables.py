"""The tables of an analysis, as text: a row of column names, then the rows.

The first two columns of each table are text, the others are numbers.
"""

from typing import TYPE_CHECKING

from regrow.common.numbers import ABSENT, count, signed
from regrow.report.plan_tables import Rows, axis_rows, remaining

if TYPE_CHECKING:
    from regrow.surgery.analysis.analysis import Analysis

_CHEAPEST = 5


def part_rows(analysis: "Analysis") -> Rows:
    """The parameters by part."""
    rows: Rows = [("part", "", "parameters", "share")]
    for part, parameters in analysis.parts.items():
        rows.append((part, "", f"{parameters:,}", f"{parameters / analysis.parameters:.1%}"))
    return rows


def line_rows(analysis: "Analysis") -> Rows:
    """The losses along depth and width."""
    refits = any(cut.without_refit is not None for line in analysis.lines for cut in line.cuts)
    more = ("not refitted", "refit gives back") if refits else ()
    rows: Rows = [("line", "what remains", "parameters cut", "bits per byte", "more", *more)]
    rows.append(("original", "", "", f"{analysis.original:.3f}", "", *("" for _ in more)))
    for line in analysis.lines:
        for number, cut in enumerate(line.cuts):
            gone = f"{1 - cut.parameters / analysis.parameters:.0%}"
            cells = [
                line.name if number == 0 else "", remaining(cut.sizes), gone,
                f"{cut.bits_per_byte:.3f}", signed(cut.bits_per_byte - analysis.original, 3),
            ]  # fmt: skip
            if refits and cut.without_refit is None:
                cells += [ABSENT, ABSENT]
            elif cut.without_refit is not None:
                back = signed(cut.without_refit - cut.bits_per_byte, 3)
                cells += [f"{cut.without_refit:.3f}", back]
            rows.append(tuple(cells))
    return rows


def cost_rows(analysis: "Analysis") -> Rows:
    """What each axis costs alone."""
    return axis_rows(analysis.axes, analysis.original)


def layer_rows(analysis: "Analysis") -> Rows:
    """The layers without which the loss is least, of each stack."""
    rows: Rows = [("layers", "layer", "nats per token without it", "more")]
    for stack in analysis.layers:
        order = sorted(range(len(stack.without)), key=lambda layer: stack.without[layer])
        for number, layer in enumerate(order[:_CHEAPEST]):
            loss = stack.without[layer]
            name = stack.axis if number == 0 else ""
            rows.append((name, str(layer), f"{loss:.3f}", signed(loss - stack.whole, 3)))
    return rows


def vocabulary_words(analysis: "Analysis") -> str:
    """What the text needs of the vocabulary, in a sentence; empty if that is not known."""
    from regrow.vocabulary.plan_tables import percent

    curve = analysis.vocabulary
    if curve is None:
        return ""
    covered = [1 - share for size, share in curve.not_covered if size >= curve.suggested]
    share = f", which keep {percent(covered[0])} of them" if covered else ""
    return (
        f"The {count(curve.tokens)} tokens of the text are {curve.used:,} different ones of "
        f"{curve.size:,}; {curve.suggested:,} are suggested{share}."
    )
