import math
from dataclasses import dataclass
from typing import Any

import hypothesis
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydantic import ValidationError

from regrow.corpus.samples import DataOrder
from regrow.training.schedule import learning_rate, schedule
from regrow.training.settings import RecoverySettings

SETTINGS = st.builds(
    RecoverySettings,
    tokens=st.integers(1, 5000),
    row_length=st.integers(2, 64),
    batch_tokens=st.integers(64, 512) | st.none(),
    warmup=st.floats(0, 1),
    final_rate=st.floats(0, 1),
    schedule=st.sampled_from(["cosine", "wsd"]),
    decay=st.just(0.0),
) | st.builds(
    RecoverySettings,
    tokens=st.integers(1, 5000),
    warmup=st.floats(0, 0.5),
    schedule=st.just("wsd"),
    decay=st.floats(0.1, 0.5),
)


@dataclass
class Rows:
    """Rows of these lengths, and nothing in them."""

    of: NDArray[np.int64]
    row_length: int = 64
    identity: str = ""

    def __len__(self) -> int:
        return len(self.of)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.of[rows]

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Any:
        raise AssertionError("a schedule asks for lengths only")


lengths = st.lists(st.integers(1, 64), min_size=1, max_size=50)


@hypothesis.settings(deadline=None)
@given(SETTINGS, lengths, st.integers(0, 9))
def test_the_budget_is_met_to_within_a_row(
    settings: RecoverySettings, found: list[int], seed: int
) -> None:
    samples = Rows(np.array(found))
    order = DataOrder(seed, len(samples))
    plan = schedule(settings, samples, order)
    trained = samples.of[order.rows(0, plan.rows)]
    assert trained[:-1].sum() < settings.tokens <= trained.sum()
    assert plan.batch_rows * np.mean(trained) <= max(settings.step_tokens, float(np.mean(trained)))
    assert (plan.steps - 1) * plan.batch_rows < plan.rows
    assert plan.rows <= plan.steps * plan.batch_rows


@given(SETTINGS)
def test_the_rate_rises_to_its_peak_and_falls_to_its_end(settings: RecoverySettings) -> None:
    steps = schedule(settings, Rows(np.array([settings.row_length])), DataOrder(0, 1)).steps
    rates = [learning_rate(step, steps, settings) for step in range(steps)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert min(rates) >= 0
    assert max(rates) <= settings.learning_rate
    warm = math.ceil(settings.warmup * steps)
    if warm > 0:
        assert max(rates) == pytest.approx(settings.learning_rate)
    if warm < steps and (settings.schedule == "cosine" or settings.decay > 0):
        assert rates[-1] == pytest.approx(settings.learning_rate * settings.final_rate)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tokens": 48_000}, 1_000),
        ({"tokens": 1_000_000}, 4_096),
        ({"tokens": 1_000}, 512),
        ({"tokens": 1_000, "row_length": 8_192}, 8_192),
        ({"tokens": 48_000, "batch_tokens": 2_048}, 2_048),
    ],
)
def test_a_small_budget_has_small_steps(given: dict[str, Any], expected: int) -> None:
    assert RecoverySettings(**given).step_tokens == expected


def test_wsd_stays_at_its_peak_between_warm_up_and_decay() -> None:
    settings = RecoverySettings(
        schedule="wsd", warmup=0.2, decay=0.4, final_rate=0.5, learning_rate=1.0
    )
    rates = [learning_rate(step, 10, settings) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.875, 0.75, 0.625, 0.5])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"token": 1}, "Extra inputs"),
        ({"row_length": 512, "batch_tokens": 511}, "less than one row"),
        ({"betas": (0.9, 1.0)}, "less than 1"),
        ({"learning_rate": float("inf")}, "finite"),
        ({"precision": "fp16"}, "bf16"),
        ({"schedule": "linear"}, "'cosine' or 'wsd'"),
        ({"schedule": "wsd", "warmup": 0.5, "decay": 0.6}, "together at most 1"),
        ({"optimizer": "sgd"}, "'adamw' or 'muon'"),
        ({"spike": 1.0}, "greater than 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RecoverySettings(**wrong)
