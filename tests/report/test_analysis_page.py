"""The page and the tables of an analysis."""

import dataclasses
import itertools
import math
import re
from pathlib import Path

import pytest

from regrow.report.analysis_charts import (
    head_chart,
    layer_chart,
    line_chart,
    lines_over_shares,
    refit_chart,
    vocabulary_chart,
)
from regrow.report.analysis_page import render_analysis, write_analysis_page
from regrow.report.analysis_tables import (
    cost_rows,
    layer_rows,
    line_rows,
    part_rows,
    vocabulary_words,
)
from regrow.report.svg import Svg
from regrow.scoring.layer_loss import LayerLosses
from regrow.surgery.analysis.analysis import Analysis, CutLoss, Importance, LossLine
from regrow.vocabulary.sizing import VocabularyCurve
from tests.report.test_plan_page import SEARCH, Balanced

DEPTH = LossLine(
    "layer", "depth",
    (CutLoss({"layer": 26}, 120_000_000, 1.02, 1.31), CutLoss({"layer": 18}, 91_000_000, 1.4, 3.2)),
)  # fmt: skip
WIDTHS = LossLine(
    "widths", "width", (CutLoss({"hidden": 504, "ffn": 1_280}, 105_000_000, 1.6, 2.9),)
)
ANALYSIS = Analysis(
    model="models/<smol>",
    model_type="llama",
    parameters=134_515_008,
    parts={"embedding": 28_311_552, "attention": 26_542_080, "ffn": 79_626_240, "norms": 35_136},
    original=0.951,
    held_back_bytes=14_913,
    calibration_tokens=8_192,
    lines=(DEPTH, WIDTHS),
    axes=SEARCH.axes,
    layers=(LayerLosses("layer", 4_000, 2.5, (9.5, 2.6, 2.49, 2.7, 2.62, 2.55, 2.58, 2.9)),),
    importance=(
        Importance("layer", "influence", ((0.4, 0.1, 0.05, 0.1),)),
        Importance("head", "activation", ((0.1, 0.9, 0.5), (0.2, 0.3, 0.0))),
    ),
    vocabulary=VocabularyCurve(
        49_152, 120_000, 9_000, 8_192, ((300, 0.4), (3_000, 0.1), (8_192, 0.001), (49_152, 0.0))
    ),
    notes=("a note about <less>",),
    directory=Path("/cache/plans/smol"),
    measured_now=30,
)
POST_NORM = dataclasses.replace(
    ANALYSIS,
    lines=tuple(
        dataclasses.replace(
            line, cuts=tuple(dataclasses.replace(c, without_refit=None) for c in line.cuts)
        )
        for line in ANALYSIS.lines
    ),
    vocabulary=None,
)


@pytest.mark.parametrize(("analysis", "charts"), [(ANALYSIS, 9), (POST_NORM, 6)])
def test_the_page_is_complete_and_asks_for_nothing(
    analysis: Analysis, charts: int, tmp_path: Path
) -> None:
    write_analysis_page(analysis, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page == render_analysis(analysis)
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|src=|<smol>|<less>", page)
    assert page.count("<svg") == charts
    texts = (
        "134.5M", "0.951", "14.9 kB", "&lt;smol&gt;, analysis", "A note about &lt;less&gt;",
        "8,192 tokens", "llama",
    )  # fmt: skip
    for text in texts:
        assert text in page, text
    assert ("refit gives back" in page) == (analysis is ANALYSIS)


def circles(chart: Svg | None) -> list[tuple[float, float]]:
    assert chart is not None
    return [(float(e.get("cx", 0)), float(e.get("cy", 0))) for e in chart.root.iter("circle")]


def test_all_lines_begin_at_the_original() -> None:
    dots = circles(line_chart(ANALYSIS))
    assert len(dots) == (3 + 1) + (2 + 1)  # a dot of each line is in the legend
    assert dots[0] == dots[4]
    right = max(x for x, _ in dots)
    assert right == pytest.approx(346)
    assert line_chart(dataclasses.replace(ANALYSIS, lines=())) is None


def test_a_refit_has_a_line_beside_that_without() -> None:
    dots = circles(refit_chart(ANALYSIS, DEPTH))
    with_refit, without = dots[:3], dots[4:7]
    assert [x for x, _ in with_refit] == [x for x, _ in without]
    assert all(a[1] > b[1] for a, b in zip(with_refit[1:], without[1:], strict=True))
    assert refit_chart(POST_NORM, POST_NORM.lines[0]) is None


def test_a_layer_that_dwarfs_the_others_is_cut_off() -> None:
    values = [7.0, 0.1, -0.01, 0.2, 0.12, 0.05, 0.08, 0.4]
    chart = layer_chart("x", values)
    assert chart is not None
    bars = [e for e in chart.root.iter("rect") if (e.get("class") or "").startswith("bar")]
    heights = [float(e.get("height", 0)) for e in bars]
    assert len(heights) == len(values)
    assert heights[0] < 4.5 * heights[7]
    assert "7.00" in [e.text for e in chart.root.iter("text")]
    beside = layer_chart("x", [7.0, 5.0, *([0.1] * 28)])
    assert beside is not None
    labels = [e for e in beside.root.iter("text") if e.text in ("7.00", "5.00")]
    assert abs(float(labels[0].get("y", 0)) - float(labels[1].get("y", 0))) > 10
    assert "layer 2" in (chart.root.get("aria-label") or "")
    for values in ([0.5], [0.0, 0.0], [-1.0, -2.0], [0.0] * 5 + [3.0], [math.nan, 0.5, 0.2]):
        chart = layer_chart("x", values)
        assert chart is not None
        assert all(
            math.isfinite(float(e.get("height", 0))) and float(e.get("height", 0)) > 0
            for e in chart.root.iter("rect")
        )
    assert "diverged" in [e.text for e in chart.root.iter("text")]
    assert layer_chart("x", []) is None
    assert layer_chart("x", [math.inf]) is None


def test_the_values_of_three_cut_off_bars_do_not_touch() -> None:
    chart = layer_chart("Layers", [9.0, 8.0, 7.0, *(0.1 for _ in range(27))])
    assert chart is not None
    labels = [e for e in chart.root.iter("text") if e.text in ("9.00", "8.00", "7.00")]
    heights = [float(label.get("y", 0)) for label in labels]
    assert len(heights) == 3
    assert min(abs(a - b) for a, b in itertools.combinations(heights, 2)) > 10
    assert min(heights) > 8  # all of it inside of the drawing


def test_a_loss_that_hardly_moves_is_drawn_flat() -> None:
    flat = lines_over_shares("Flat", [("layer", [(0.0, 1.0), (0.1, 1.0004)])], "cut")
    places = [float(each.get("cy", 0)) for each in flat.root.iter("circle")][:2]
    assert abs(places[0] - places[1]) < 3


def test_the_most_important_head_is_the_darkest() -> None:
    chart = head_chart(ANALYSIS.importance[1])
    assert chart is not None
    shades = [e.get("class", "") for e in chart.root.iter("rect")]
    assert shades == ["cell l1", "cell l5", "cell l3", "cell l3", "cell l5", "cell l0"]
    assert head_chart(ANALYSIS.importance[0]) is None
    zero = Importance("head", "activation", ((0.0, 0.0), (0.0, 0.0)))
    assert head_chart(zero) is not None


def test_the_kept_share_of_the_text_rises_to_all_of_it() -> None:
    assert ANALYSIS.vocabulary is not None
    chart = vocabulary_chart(ANALYSIS.vocabulary)
    assert chart is not None
    [line] = [e.get("d", "") for e in chart.root.iter("path") if e.get("class") == "line regrown"]
    points = [tuple(map(float, pair.split())) for pair in re.split("[ML]", line)[1:]]
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True)
    assert points[-1] == (346, 12)
    few = dataclasses.replace(ANALYSIS.vocabulary, not_covered=((300, 0.4),))
    assert vocabulary_chart(few) is None


def test_the_tables_are_of_one_width() -> None:
    for analysis in (ANALYSIS, POST_NORM):
        tables = (part_rows, line_rows, cost_rows, layer_rows)
        for rows in (table(analysis) for table in tables):
            assert {len(row) for row in rows} == {len(rows[0])}
    assert line_rows(ANALYSIS)[2] == (
        "layer", "layer 26", "11%", "1.020", "+0.069", "1.310", "+0.290",
    )  # fmt: skip
    assert line_rows(ANALYSIS)[3][0] == ""
    assert len(line_rows(POST_NORM)[0]) == 5
    assert layer_rows(ANALYSIS)[1][:3] == ("layer", "2", "2.490")
    assert part_rows(ANALYSIS)[1] == ("embedding", "", "28,311,552", "21.0%")


def test_the_vocabulary_in_words() -> None:
    words = vocabulary_words(ANALYSIS)
    assert "120.0K tokens of the text are 9,000 different ones of 49,152" in words
    assert "8,192 are suggested, which keep 99.90% of them" in words
    assert vocabulary_words(POST_NORM) == ""
