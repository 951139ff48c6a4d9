"""Every coordinate of every chart is finite and inside its view box."""

import math
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from regrow.report import charts
from regrow.report.charts import Kind
from regrow.report.svg import WIDTH, Element, Svg, tick_labels, ticks

NUMBERS = re.compile(r"-?\d+(?:\.\d+)?")
names = st.text(max_size=30)
losses = st.floats(allow_nan=True, allow_infinity=True) | st.floats(0, 20)
tokens = st.integers(0, 10**13).map(float)
points = st.lists(st.tuples(tokens, losses), max_size=30)
scores = st.none() | losses


def paths(element: Element) -> list[list[tuple[float, float]]]:
    """The corners of each subpath, h and v steps resolved."""
    found: list[list[tuple[float, float]]] = []
    x = y = 0.0
    for command, rest in re.findall(r"([MLhvZ])([^MLhvZ]*)", element.get("d", "")):
        values = [float(value) for value in NUMBERS.findall(rest)]
        if command in "ML":
            x, y = values
        elif command == "h":
            x += values[0]
        elif command == "v":
            y += values[0]
        if command == "M":
            found.append([])
        if command != "Z":
            found[-1].append((x, y))
    return found


def corners(svg: Svg) -> Iterator[tuple[float, float]]:
    for element in svg.root.iter():
        if element.tag == "path":
            for subpath in paths(element):
                yield from subpath
        elif element.tag == "circle":
            x, y, r = (float(element.get(key, "nan")) for key in ("cx", "cy", "r"))
            yield from ((x - r, y - r), (x + r, y + r))
        elif element.tag in ("rect", "text"):
            x, y = float(element.get("x", "nan")), float(element.get("y", "nan"))
            width, height = float(element.get("width", 0)), float(element.get("height", 0))
            assert width >= 0
            yield from ((x, y), (x + width, y + height))


def check(svg: Svg | None) -> Svg | None:
    if svg is not None:
        _, _, width, height = map(float, svg.root.get("viewBox", "").split())
        for x, y in corners(svg):
            assert math.isfinite(x)
            assert math.isfinite(y)
            assert -0.05 <= x <= width + 0.05
            assert -0.05 <= y <= height + 0.05
        assert svg.root.get("role") == "img"
        assert svg.root.get("aria-label")
        assert svg.root.find("title") is not None
    return svg


def data_lines(svg: Svg, style: str) -> list[list[tuple[float, float]]]:
    found = [e for e in svg.root.iter("path") if (e.get("class") or "").startswith(style)]
    return [subpath for element in found for subpath in paths(element)]


KINDS: tuple[Kind, ...] = ("plain", "grey", "smooth", "heldout")


@given(st.lists(st.tuples(names, points, st.sampled_from(KINDS)), max_size=6))
def test_curves(lines: list[tuple[str, list[charts.Point], Kind]]) -> None:
    svg = check(charts.curves("loss", [charts.Line(*line) for line in lines]))
    finite = any(charts.drawable(y) for _, values, _ in lines for _, y in values)
    assert (svg is not None) == finite
    if svg is not None:
        for line in data_lines(svg, "line"):
            assert all(a[0] <= b[0] for a, b in pairwise(line))


@given(st.lists(st.tuples(tokens, st.floats(0, 20)), min_size=1, max_size=1500))
def test_long_curves_are_averaged_and_keep_their_end(values: list[charts.Point]) -> None:
    svg = check(charts.curves("loss", [charts.Line("training", values, "grey")]))
    assert svg is not None
    line = data_lines(svg, "line grey")[0]
    assert len(line) <= charts.MOST_POINTS
    if max(x for x, _ in values) > 0:
        assert line[-1][0] == WIDTH - 14


def test_a_noisy_curve_is_drawn_faint_behind_its_moving_mean() -> None:
    noisy = [(float(x), 2.0 + (x % 2)) for x in range(100)]
    svg = check(charts.curves("loss", [charts.Line("", noisy, "smooth")]))
    assert svg is not None
    (raw,), (mean,) = data_lines(svg, "line raw"), data_lines(svg, "line smooth")
    assert [x for x, _ in raw] == [x for x, _ in mean]
    heights = [y for _, y in mean]
    assert max(heights) - min(heights) < 0.1 * (max(y for _, y in raw) - min(y for _, y in raw))
    assert not [e for e in svg.root.iter("text") if e.get("class") == "label"]  # no name


def test_a_held_out_loss_shows_its_values_at_both_ends() -> None:
    lines = [
        charts.Line("docs", [(0.0, 1.2), (50.0, 1.0), (90.0, 0.9)]),
        charts.Line("prose", [(0.0, 1.199), (90.0, 1.4)]),
    ]
    svg = check(charts.curves("loss", lines))
    assert svg is not None
    labels = [e for e in svg.root.iter("text") if e.get("class") == "value"]
    assert sorted(str(e.text) for e in labels) == ["0.900", "1.199", "1.200", "1.400"]
    first, second = sorted(
        float(e.get("y", "0")) for e in labels if e.get("text-anchor") == "start"
    )
    assert second - first > 11  # two values that lie on each other are written apart
    assert len(data_lines(svg, "line heldout h1 worse")) == 2  # the line, and its legend
    assert not [e for e in svg.root.iter("path") if e.get("class") == "line heldout h0 worse"]


def test_a_loss_that_diverged_leaves_a_gap() -> None:
    values = [(1.0, 3.0), (2.0, 2.5), (3.0, math.nan), (4.0, 2.4), (5.0, 2.3)]
    svg = check(charts.curves("loss", [charts.Line("stories", values)]))
    assert svg is not None
    assert [len(line) for line in data_lines(svg, "line")] == [2, 2, 2]  # two pieces, the legend


@given(scores, st.lists(st.tuples(names, scores, scores), max_size=8), scores)
def test_journey(
    original: float | None,
    steps: list[tuple[str, float | None, float | None]],
    control: float | None,
) -> None:
    chain = [charts.Step(*step) for step in steps]
    svg = check(charts.journey("bits per byte", original, chain, [("control", control)]))
    values = [original, *(value for _, cut, regrown in steps for value in (cut, regrown))]
    finite = [value is not None and charts.drawable(value) for value in values]
    assert (svg is not None) == (sum(finite) >= 2)
    if svg is not None:
        dots = [float(e.get("cx", "nan")) for e in svg.root.iter("circle")]
        assert len(dots) == sum(finite)
        assert all(a < b for a, b in pairwise(dots))
        # Cuts have odd places, recoveries even ones; what was not measured is passed over.
        places = [place for place, value in enumerate(values) if value is not None]
        ends = [b for a, b in pairwise(places) if finite[a] and finite[b]]
        assert len(data_lines(svg, "line cut")) == sum(end % 2 == 1 for end in ends)
        assert len(data_lines(svg, "line regrown")) == sum(end % 2 == 0 for end in ends)


shares = st.dictionaries(st.sampled_from("RSX"), st.floats(0, 1e300))


@given(st.lists(st.tuples(tokens, shares), max_size=30))
def test_mixture(rows: list[tuple[float, dict[str, float]]]) -> None:
    svg = check(charts.mixture("mixture", rows))
    if svg is not None:
        for area in data_lines(svg, "area"):
            half = len(area) // 2
            upper, lower = area[:half], area[half:][::-1]
            assert all(a[0] <= b[0] for a, b in pairwise(upper))
            assert all(a[1] <= b[1] + 0.01 for a, b in zip(upper, lower, strict=True))


@pytest.mark.parametrize("count", [2, 240, 241, 242, 2_417])
def test_a_long_mixture_keeps_its_last_row(count: int) -> None:
    rows = [(float(number), {"R": 1.0}) for number in range(count - 1)]
    svg = check(charts.mixture("mixture", [*rows, (float(count), {"R": 0.5, "last": 0.5})]))
    assert svg is not None
    assert len(data_lines(svg, "area")) == 2
    assert all(len(area) <= 2 * charts.MOST_POINTS for area in data_lines(svg, "area"))


@given(st.lists(st.tuples(names, st.lists(st.tuples(tokens, losses), max_size=20)), max_size=9))
def test_gaps(parts: list[tuple[str, list[tuple[float, float]]]]) -> None:
    panels = [charts.Panel(name, 2.0, points) for name, points in parts]
    svg = check(charts.gaps("gaps", panels))
    finite = [any(charts.drawable(x) and charts.drawable(y) for x, y in p) for _, p in parts]
    assert (svg is not None) == any(finite)
    if svg is not None:
        assert len(data_lines(svg, "line comparison")) == sum(finite)


def test_a_gap_of_nothing_lies_on_the_reference() -> None:
    panels = [charts.Panel("S", 2.0, [(0.0, 1.0), (9.0, 0.0)]), charts.Panel("R1", 1.0, [(9.0, 0)])]
    svg = check(charts.gaps("gaps", panels))
    assert svg is not None
    line = next(paths(e)[0] for e in svg.root.iter("path") if e.get("class") == "line")
    first = data_lines(svg, "line comparison")[0]
    assert line[1] == first[1]
    assert line[0][0] == first[0][0]
    assert [e.text for e in svg.root.iter("text") if e.get("class") == "value"] == ["2.00", "1.00"]


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite)
def test_ticks_are_inside_and_increase(a: float, b: float) -> None:
    low, high = min(a, b), max(a, b)
    values = ticks(low, high)
    assert 1 <= len(values) <= 5
    assert all(low <= value <= high for value in values)
    assert values == sorted(set(values))
    assert len(tick_labels(values)) == len(values)


def test_ticks_are_round() -> None:
    assert ticks(0, 4e6) == [0, 1e6, 2e6, 3e6, 4e6]
    assert ticks(2.03, 3.71) == [2.5, 3.0, 3.5]
    assert tick_labels([2.5, 3.0, 3.5]) == ["2.5", "3.0", "3.5"]


def test_labels_are_escaped() -> None:
    svg = charts.curves("<b>", [charts.Line("<script>x</script>", [(0.0, 1.0)])])
    assert svg is not None
    assert "<script" not in svg.__html__()
    assert "&lt;script&gt;" in svg.__html__()
