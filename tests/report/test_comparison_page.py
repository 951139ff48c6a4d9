from dataclasses import replace

import pytest

from regrow.common.numbers import ABSENT
from regrow.evaluation.comparison import Comparison, compare_scores
from regrow.evaluation.speed import Memory, Speed
from regrow.evaluation.task_results import Evaluated, Metric, TaskScore
from regrow.report.comparison_page import quality_chart, render_comparison, speed_chart
from regrow.report.comparison_tables import (
    difference_rows,
    generation_note,
    generation_rows,
    model_rows,
    short_names,
    unknown_quality,
)


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
    speeds = [
        Speed(own, own, (0.2, 0.21, 0.25), Memory(4 * 10**9, 500), "a CPU"),
        Speed((12.0, 10.0, 12.0), own, (0.0811, 0.0811, 0.0811), Memory(16 * 10**8), "a CPU"),
    ]
    return compare_scores([model("a/big", 10**9, 15), model("small", 4 * 10**8, 10)], speeds)


def test_the_tables_of_a_comparison(compared: Comparison) -> None:
    rows = model_rows(compared)[1:]
    assert rows[0] == ("a/big", "1.0B", "2.0 GB", "100.0%")
    assert rows[1] == ("small", "400.0M", "800 MB", "50.0% (10.0 to 83.3%)")
    assert generation_rows(compared) == [
        ("model", "tokens/s", "times", "first token, ms", "loaded weights", "keys, values"),
        ("a/big", "5.0 ± 0.5", "1.00", "210 ± 12.5", "4.0 GB", "500 B"),
        ("small", "12.0 ± 0.5", "2.40", "81.1 ± 0.0", "1.6 GB", ""),
    ]
    note = generation_note(compared)
    assert note.startswith("Measured on a CPU, in float32. ")
    assert "in 3 rounds" in note
    assert "peak" not in note.lower()
    (row,) = difference_rows(compared, compared.compared[0])[1:]
    assert row[:4] == ("arc<", "acc", "75.0", "50.0")
    assert row[4].endswith("25.0")
    assert row[6] == "0.062"


def test_a_first_model_that_guesses_has_nothing_to_keep(compared: Comparison) -> None:
    assert unknown_quality(compared) is None
    found = compare_scores([model("a/big", 10**9, 5), model("small", 4 * 10**8, 10)])
    assert [row[-1] for row in model_rows(found)[1:]] == [ABSENT, ABSENT]
    assert "a/big is above chance by more than two standard errors on none" in (
        unknown_quality(found) or ""
    )


def test_rounds_are_those_that_each_model_took_turns_in(compared: Comparison) -> None:
    """With little memory, the first model has the rounds of each pair."""
    first, second = compared.speeds or ()
    twice = first.tokens_per_second * 2
    longer = replace(first, tokens_per_second=twice, beside=twice)
    assert "in 3 rounds" in generation_note(replace(compared, speeds=(longer, second, second)))


def test_the_page_has_a_point_for_each_model(compared: Comparison) -> None:
    page = render_comparison(compared)
    assert page.count("<circle") == 4
    assert "Quality over parameters. big: 1.0B, 100%; small: 400.0M, 50%." in page
    assert "Quality over tokens/s. big: 5.0, 100%; small: 12.0, 50%." in page
    assert "small 50%" in page
    assert generation_note(compared) in page
    assert '<td class="n">210 ± 12.5</td>' in page
    assert "arc&lt;" in page
    assert "arc<" not in page
    assert "above chance by more than two standard errors; a group counts as one task" in page


def test_the_peak_is_a_column_where_it_is_known(compared: Comparison) -> None:
    first, second = compared.speeds or ()
    peaks = [replace(each, memory=Memory(8, 2, 10 + number), device="a GPU", dtype="bfloat16")
             for number, each in enumerate((first, second))]  # fmt: skip
    on_gpu = replace(compared, speeds=tuple(peaks))
    assert [row[-1] for row in generation_rows(on_gpu)] == ["peak", "10 B", "11 B"]
    assert "on a GPU, in bfloat16" in generation_note(on_gpu)
    assert "Peak is the most bytes" in generation_note(on_gpu)


def test_without_speeds_nothing_is_said_of_them(compared: Comparison) -> None:
    plain = replace(compared, speeds=None)
    assert generation_rows(plain) == []
    assert speed_chart(plain) is None
    page = render_comparison(plain)
    assert page.count("<circle") == 2
    assert "tokens/s" not in page
    assert "Generation" not in page


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
