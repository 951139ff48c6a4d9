import pytest

from regrow.evaluation.comparison import Comparison, compare_scores
from regrow.evaluation.speed import Speed
from regrow.evaluation.task_results import Evaluated, Metric, TaskScore
from regrow.report.comparison_page import quality_chart, render_comparison
from regrow.report.comparison_tables import difference_rows, model_rows, short_names


def model(name: str, parameters: int, right: int, chance: float | None = 0.25) -> Evaluated:
    marks = {str(number): float(number < right) for number in range(20)}
    score = TaskScore(
        "arc<", "acc", {"acc": Metric(right / 20, 0.1)}, True, 20, marks, chance, {"A": 1.0}
    )
    return Evaluated(
        name, f"/{name}", "sha", parameters, 2 * parameters, "fp32", (score,), (), 20, 0, {}
    )


@pytest.fixture
def compared() -> Comparison:
    own = (5.0, 4.0, 6.0)
    speeds = [Speed(own, own), Speed((12.0, 10.0, 12.0), own)]
    return compare_scores([model("a/big", 10**9, 15), model("small", 4 * 10**8, 10)], speeds)


def test_the_tables_of_a_comparison(compared: Comparison) -> None:
    rows = model_rows(compared)[1:]
    assert rows[0] == ("a/big", "1.0B", "2.0 GB", "100.0%", "5.0 ± 0.5", "1.00")
    assert rows[1] == ("small", "400.0M", "800 MB", "50.0%", "12.0 ± 0.5", "2.40")
    (row,) = difference_rows(compared, compared.compared[0])[1:]
    assert row[:4] == ("arc<", "acc", "75.0", "50.0")
    assert row[4].endswith("25.0")
    assert row[6] == "0.062"


def test_the_page_has_a_point_for_each_model(compared: Comparison) -> None:
    page = render_comparison(compared)
    assert page.count("<circle") == 2
    assert "small 50%" in page
    assert "arc&lt;" in page
    assert "arc<" not in page
    assert "above chance by more than two standard errors; a group counts as one task" in page


def test_without_chance_there_is_no_chart() -> None:
    found = compare_scores([model("a", 9, 15, None), model("b", 4, 10, None)])
    assert quality_chart(found) is None
    assert found.compared[0].kept is None


@pytest.mark.parametrize(
    ("given", "short"),
    [
        (["a/big", "small"], ["big", "small"]),
        (
            ["run/original", "run/stages/50 percent/model", "run/stages/70 percent/model"],
            ["original", "50 percent", "70 percent"],
        ),
        (["one/m", "two/m"], ["one/m", "two/m"]),
    ],
)
def test_models_have_short_names_that_differ(given: list[str], short: list[str]) -> None:
    found = compare_scores([model(name, 10 + n, 15 - n) for n, name in enumerate(given)])
    assert short_names(found) == short
    page = render_comparison(found)
    assert f"<h1>{', '.join(short[:-1])} and {short[-1]}, compared</h1>" in page
    assert all(f">{name} against {short[0]}<" in page for name in short[1:])
