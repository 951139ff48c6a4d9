"""One sentence of measured numbers says what the model is good for."""

import pytest

from regrow.evaluation.speed import Speed
from regrow.report.records import ModelRow, RunSummary, Score, StageRow
from regrow.report.verdict import verdict


def summary(bare: RunSummary, speed: float | None = None, **bits: float) -> RunSummary:
    """A run with an original of 100 parameters and 1 bit per byte on each text."""
    scores = [{text: Score(bits_per_byte=value) for text, value in each.items()}
              for each in (dict.fromkeys(bits, 1.0), bits)]  # fmt: skip
    rows = [
        ModelRow(name="original", role="original", parameters=100, after_recovery=scores[0]),
        ModelRow(
            name="half", role="stage", parameters=50, after_recovery=scores[1],
            speed=None if speed is None else Speed((speed,), (1.0,)),
        ),
    ]  # fmt: skip
    return bare.model_copy(update={"models": tuple(rows)})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (
            {"docs": 1.144, "prose": 1.37, "speed": 1.49},
            "has 50% of the original's parameters, needs 14% more bits per byte on docs and 37% "
            "more on prose, and generates text 1.5 times as fast.",
        ),
        (
            {"docs": 0.97},
            "has 50% of the original's parameters and needs 3% fewer bits per byte on docs.",
        ),
        (
            {"a": 1.002, "b": 1.2, "c": 0.9, "speed": 1.03},
            "has 50% of the original's parameters, needs as many bits per byte on a, 20% more on b "
            "and 10% fewer on c, and generates text as fast.",
        ),
        (
            {"docs": 1.1, "speed": 0.62},
            "has 50% of the original's parameters, needs 10% more bits per byte on docs, and "
            "generates text 0.6 times as fast.",
        ),
        ({"docs": float("inf"), "speed": 2.0},
         "has 50% of the original's parameters and generates text 2.0 times as fast."),
    ],
)  # fmt: skip
def test_the_sentence(bare: RunSummary, changed: dict[str, float], said: str) -> None:
    assert verdict(summary(bare, **changed)) == f"The result (half) {said}"


def test_a_stage_that_is_not_done_is_no_result(bare: RunSummary) -> None:
    run = summary(bare, docs=1.5)
    begun = run.models[1].model_copy(update={"name": "quarter", "parameters": 25})
    update = {"models": (*run.models, begun), "stages": (StageRow(name="quarter", done=False),)}
    assert verdict(bare.model_copy(update=update)).startswith("The result (half) has 50%")


def test_a_training_changes_no_size(bare: RunSummary) -> None:
    original, half = summary(bare, docs=0.5).models
    rows = (original, half.model_copy(update={"parameters": 100}))
    assert verdict(bare.model_copy(update={"models": rows})) == (
        "The result (half) has as many parameters as the original and needs 50% fewer bits per "
        "byte on docs."
    )


def test_what_cannot_be_compared_is_left_out(bare: RunSummary) -> None:
    run = summary(bare, docs=1.1)
    original, half = run.models
    lost = half.model_copy(
        update={"after_recovery": {"docs": Score(bits_per_byte=1.1, unknown=0.4)}}
    )
    assert verdict(run.model_copy(update={"models": (original, lost)})) == ""
    assert verdict(run.model_copy(update={"models": (original,)})) == ""
    assert verdict(bare) == ""
