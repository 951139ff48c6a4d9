import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings

SETTINGS = st.builds(
    RecoverySettings,
    tokens=st.integers(1, 5000),
    row_length=st.integers(2, 64),
    batch_tokens=st.integers(64, 512),
    warmup=st.floats(0, 1),
    final_rate=st.floats(0, 1),
)


@given(SETTINGS, st.floats(1, 64))
def test_the_budget_is_met_to_within_a_row(settings: RecoverySettings, mean: float) -> None:
    plan = schedule(settings, mean)
    assert plan.rows * mean == pytest.approx(settings.tokens, abs=mean)
    assert plan.rows * mean >= settings.tokens * (1 - 1e-12)
    assert plan.batch_rows * mean <= settings.batch_tokens
    assert (plan.steps - 1) * plan.batch_rows < plan.rows
    assert plan.rows <= plan.steps * plan.batch_rows


@given(SETTINGS)
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(settings: RecoverySettings) -> None:
    steps = schedule(settings, settings.row_length).steps
    rates = [learning_rate(step, steps, settings) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) >= 0
    assert max(rates) <= settings.learning_rate
    warm = math.ceil(settings.warmup * steps)
    if warm > 0:
        assert max(rates) == pytest.approx(settings.learning_rate)
    if warm < steps:
        assert rates[-1] == pytest.approx(settings.learning_rate * settings.final_rate)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"token": 1}, "Extra inputs"),
        ({"row_length": 512, "batch_tokens": 511}, "less than one row"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"precision": "fp16"}, "bf16"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecoverySettings(**wrong)
