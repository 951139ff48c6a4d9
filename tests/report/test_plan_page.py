"""The page and the tables of a plan by measured costs."""

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from regrow.report.plan_page import cost_charts, prediction_chart, render_plan, write_plan_page
from regrow.report.plan_tables import candidate_rows, cost_rows, stage_rows
from regrow.surgery.plan import Plan, PlannedStage
from regrow.surgery.search.search import (
    AxisCosts,
    MeasuredCandidate,
    SizeCost,
    SizeSearch,
)


def costs(axis: str, size: int, *cuts: tuple[int, float, float]) -> AxisCosts:
    """An axis with cuts of (size, parameters in millions, bits per byte)."""
    found = [SizeCost(to, {axis: to}, int(millions * 1e6), bits) for to, millions, bits in cuts]
    return AxisCosts(axis, size, tuple(found))


SEARCH = SizeSearch(
    original=0.951,
    characters=119_304,
    held_back_bytes=14_913,
    calibration_tokens=8_192,
    axes=(
        costs("vocab", 49_152, (26_624, 121.5, 0.963), (15_360, 115.0, 0.974),
              (8_192, 110.9, 0.997)),
        costs("hidden", 576, (432, 101.0, 1.31), (360, 84.1, 1.66), (288, 67.3, 2.21)),
        costs("ffn", 1_536, (1_024, 108.0, 1.05), (688, 90.7, 1.22), (464, 79.0, 1.44)),
        costs("kv_head", 3, (2, 125.7, 1.09), (1, 116.8, 1.31)),
        costs("head", 9, (6, 127.9, 1.02), (3, 121.2, 1.20)),
        costs("layer", 30, (22, 106.2, 1.08), (16, 85.0, 1.52), (12, 70.8, 2.03)),
    ),
    candidates=(
        MeasuredCandidate({"vocab": 14_336, "ffn": 960, "layer": 22}, 66_912_192, 133_824_384,
                          1.172, 1.241, fixed_costs=False),
        MeasuredCandidate({"vocab": 10_240, "ffn": 1_024, "layer": 23}, 66_801_000, 133_602_000,
                          1.183, 1.262, fixed_costs=False),
        MeasuredCandidate({"vocab": 16_384, "ffn": 1_056, "head": 6, "kv_head": 2, "layer": 22},
                          66_999_000, 133_998_000, 1.204, 1.318, fixed_costs=True),
    ),
    tokens_per_second=None,
    directory=Path("/cache/plans/smol"),
    measured_now=20,
)  # fmt: skip
PLAN = Plan(
    model="models/smol",
    parameters_before=134_515_008,
    parameters=66_912_192,
    bytes_before=269_030_016,
    nbytes=133_824_384,
    stages=(
        PlannedStage("depth 1", {"layer": 26}, 120_000_000),
        PlannedStage("depth 2", {"layer": 22}, 106_000_000),
        PlannedStage("width", {"ffn": 960}, 86_700_000),
        PlannedStage("vocabulary", {"vocab": 14_336}, 66_912_192),
    ),
    recipe="name: pruned\n",
    notes=("uniform sizes are the limit: the <llama> config holds one number",),
    search=SEARCH,
)
FAST = dataclasses.replace(
    PLAN,
    search=dataclasses.replace(
        SEARCH,
        tokens_per_second=14.9,
        candidates=tuple(
            dataclasses.replace(each, predicted_tokens_per_second=24.0, tokens_per_second=23.4)
            for each in SEARCH.candidates
        ),
    ),
)


class Balanced(HTMLParser):
    """Checks that tags are closed in order."""

    VOID = ("meta", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("plan", [PLAN, FAST], ids=["parameters", "speed"])
def test_the_page_is_complete_and_asks_for_nothing(plan: Plan, tmp_path: Path) -> None:
    write_plan_page(plan, tmp_path / "p.html")
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert page == render_plan(plan)
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|src=", page)
    assert page.count("<svg") == 2
    assert "&lt;llama&gt;" in page
    assert ("tokens/s" in page) == (plan is FAST)
    for text in ("134.5M", "66.9M", "269 MB", "0.951", "1.241", "+30.5%", "smol, plan",
                 "name: pruned", "not independent"):  # fmt: skip
        assert text in page, text


def test_a_plan_by_fixed_costs_has_no_page() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        render_plan(dataclasses.replace(PLAN, search=None))


def test_each_axis_has_a_line_from_the_original() -> None:
    chart = cost_charts(SEARCH.axes, SEARCH.original, PLAN.parameters_before)
    assert chart is not None
    lines = [e.get("d", "") for e in chart.root.iter("path") if e.get("class") == "line"]
    assert [line.count("L") for line in lines] == [len(axis.cuts) for axis in SEARCH.axes]
    # The steepest rise is that of hidden, below the names; all begin at the original.
    dots = [(float(e.get("cx", 0)), float(e.get("cy", 0))) for e in chart.root.iter("circle")]
    assert min(y for _, y in dots) == pytest.approx(20 + 70 * (1 - 1 / 1.15), abs=0.01)
    names = [e.text for e in chart.root.iter("text") if e.get("class") == "name"]
    assert names[:2] == ["vocab, 49,152", "hidden, 576"]


def test_no_axis_no_chart() -> None:
    assert cost_charts((), 1.0, 1) is None
    assert prediction_chart(dataclasses.replace(SEARCH, candidates=())) is None


def test_the_chart_of_predictions_has_equal_axes() -> None:
    same = dataclasses.replace(SEARCH.candidates[0], predicted=1.2, measured=1.2)
    chart = prediction_chart(dataclasses.replace(SEARCH, candidates=(same,)))
    assert chart is not None
    [dot] = chart.root.iter("circle")
    assert float(dot.get("cx", 0)) == pytest.approx((40 + 346) / 2, abs=0.1)
    assert float(dot.get("cy", 0)) == pytest.approx(12 + 168 / 2, abs=0.1)


def test_the_tables_are_of_one_width() -> None:
    for rows in (cost_rows(SEARCH), candidate_rows(SEARCH), stage_rows(PLAN)):
        assert {len(row) for row in rows} == {len(rows[0])}
    assert cost_rows(SEARCH)[2] == ("vocab, 49,152", "26,624", "121.5M", "0.963", "+0.012")
    assert cost_rows(SEARCH)[3][0] == ""
    assert candidate_rows(SEARCH)[1] == (
        "1", "vocab 14,336, ffn 960, layer 22", "66.9M", "1.172", "1.241",
    )  # fmt: skip
    assert candidate_rows(SEARCH)[3][0] == "3, by fixed costs"
    assert FAST.search is not None
    assert candidate_rows(FAST.search)[0][-1] == "tokens/s"
    assert candidate_rows(FAST.search)[1][-1] == "23.4"
