"""The page of an analysis: what each part of a model is worth."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from regrow.common import numbers
from regrow.common.files import write_atomically
from regrow.report.analysis_charts import (
    head_chart,
    layer_chart,
    line_chart,
    refit_chart,
    vocabulary_chart,
)
from regrow.report.analysis_tables import (
    cost_rows,
    layer_rows,
    line_rows,
    part_rows,
    vocabulary_words,
)
from regrow.report.plan_page import cost_charts
from regrow.report.size_charts import staircase
from regrow.report.svg import Svg
from regrow.report.templates import render

if TYPE_CHECKING:
    from regrow.surgery.analysis.analysis import Analysis

Figure = tuple[str, str, Svg]
"""A title, a caption, and the chart."""


def render_analysis(analysis: "Analysis") -> str:
    """The page as HTML, without network and scripts. All text is escaped."""
    tables = (
        ("Depth and width", line_rows(analysis)),
        ("Each axis alone", cost_rows(analysis)),
        ("The cheapest layers", layer_rows(analysis)),
        ("Parts", part_rows(analysis)),
    )
    sections = (
        ("Depth and width", _losses(analysis)),
        ("Layers and heads", _inside(analysis)),
        ("Vocabulary", _vocabulary(analysis)),
    )
    return render(
        "analysis.html",
        name=Path(analysis.model).name,
        analysis=analysis,
        number=numbers,
        parts=staircase("Parameters by part", [*analysis.parts], [("", analysis.parts)]),
        sections=[(title, figures) for title, found in sections if (figures := [*found])],
        vocabulary=vocabulary_words(analysis),
        tables=[(title, rows[0], rows[1:]) for title, rows in tables if len(rows) > 1],
    )


def _losses(analysis: "Analysis") -> Iterator[Figure]:
    chart = line_chart(analysis)
    if chart is not None:
        yield "depth and width", "bits per byte, by the part of the parameters that goes", chart
    alone = cost_charts(analysis.axes, analysis.original, analysis.parameters)
    if alone is not None:
        yield (
            "each axis alone",
            "bits per byte more, by the part of the parameters that goes; the label is the "
            "smallest size",
            alone,
        )
    for line in analysis.lines:
        chart = refit_chart(analysis, line)
        if chart is not None:
            yield f"refit, {line.name}", "bits per byte with and without a refit", chart


def _inside(analysis: "Analysis") -> Iterator[Figure]:
    for stack in analysis.layers:
        more = [loss - stack.whole for loss in stack.without]
        chart = layer_chart(f"Loss without each layer ({stack.axis})", more)
        if chart is not None:
            caption = "nats per token more if one layer is left out, nothing refitted"
            yield f"without each {_words(stack.axis)}", caption, chart
    for each in sorted(analysis.importance, key=lambda each: len(each.rows)):
        if len(each.rows) == 1:
            chart = layer_chart(f"Importance of the layers ({each.axis})", each.rows[0], 3)
            caption = f"{each.by}: how much each layer changes what enters it"
        else:
            chart = head_chart(each)
            caption = f"{each.by}: a row for each layer, the darker the more in that layer"
        if chart is not None:
            yield f"importance, {_words(each.axis)}", caption, chart


def _vocabulary(analysis: "Analysis") -> Iterator[Figure]:
    chart = None if analysis.vocabulary is None else vocabulary_chart(analysis.vocabulary)
    if chart is not None:
        yield "kept", "share of the text's tokens that a smaller vocabulary still has", chart


def _words(axis: str) -> str:
    return axis.replace(".", " ").replace("_", " ")


def write_analysis_page(analysis: "Analysis", target: Path) -> None:
    """Write the page to `target`, completely or not at all."""
    write_atomically(target, render_analysis(analysis).encode())
