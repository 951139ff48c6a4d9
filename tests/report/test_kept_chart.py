"""Which indices a cut keeps, as rows of cells."""

from hypothesis import given
from hypothesis import strategies as st

from regrow.report import kept_chart
from regrow.report.svg import WIDTH
from tests.report.test_charts import check, data_lines, paths


@st.composite
def choices(draw: st.DrawFn) -> tuple[int, list[tuple[str, list[int]]]]:
    before = draw(st.integers(1, 400))
    kept = st.sets(st.integers(0, before - 1)).map(sorted)
    rows = draw(st.lists(kept, min_size=1, max_size=5))
    return before, [(str(number), indices) for number, indices in enumerate(rows)]


@given(choices())
def test_strip_shades_by_the_share_kept(case: tuple[int, list[tuple[str, list[int]]]]) -> None:
    before, rows = case
    svg = check(kept_chart.strip("kept", before, rows))
    assert svg is not None
    if before <= 48:  # one cell an index: as many full cells as kept indices, none in between
        cells = {e.get("class"): len(paths(e)) for e in svg.root.iter("path")}
        kept = sum(len(indices) for _, indices in rows)
        assert cells.get("cell l5", 0) == kept
        assert cells.get("cell l0", 0) == before * len(rows) - kept
        assert set(cells) <= {"cell l0", "cell l5"}


def test_strip_puts_each_index_in_its_place() -> None:
    svg = check(kept_chart.strip("kept", 4, [("0", [1, 2]), ("1", [3])]))
    assert svg is not None
    step = (WIDTH - 26) / 4
    corners = [(round((subpath[0][0] - 26) / step), subpath[0][1]) for subpath in
               data_lines(svg, "cell l5")]  # fmt: skip
    assert corners == [(1, 0), (2, 0), (3, 12)]


def test_strip_shades_equal_spans_of_a_long_axis() -> None:
    svg = check(kept_chart.strip("kept", 400, [("", list(range(100, 200)))], most_cells=4))
    assert svg is not None
    assert [subpath[0][0] for subpath in data_lines(svg, "cell l5")] == [WIDTH / 4]
    half = check(kept_chart.strip("kept", 400, [("", list(range(0, 400, 2)))], most_cells=4))
    assert half is not None
    assert len(data_lines(half, "cell l3")) == 4


def test_strip_of_nothing_is_left_out() -> None:
    assert kept_chart.strip("kept", 0, [("", [])]) is None
    assert kept_chart.strip("kept", 8, []) is None
