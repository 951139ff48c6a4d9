"""What a training tells the clock and the progress of a run."""

from pathlib import Path
from typing import Any

import pytest

from regrow.common.progress import Progress, Update
from regrow.pipeline.ledger import Ledger
from regrow.pipeline.step_recorder import StepRecorder, TrainingProgress
from regrow.pipeline.time_left import Clock, StepWork
from regrow.training.task import StepReport


def report(step: int, tokens: int, seconds: float, **more: Any) -> StepReport:
    fields: dict[str, Any] = {
        "steps": 10, "loss": 2.0, "gradient_norm": 1.0, "learning_rate": 0.1, "heldout": None,
        "mixture_losses": None, "seconds": 0.0, "skipped": None, "component_losses": {},
        "step_tokens": 100, "shares": None,
    }  # fmt: skip
    return StepReport(step=step, tokens=tokens, step_seconds=seconds, **(fields | more))


@pytest.fixture
def updates() -> list[Update]:
    return []


@pytest.fixture
def training(tmp_path: Path, updates: list[Update]) -> TrainingProgress:
    clock = Clock([StepWork("half/recover", "train", 1000.0)])
    progress = Progress(update=updates.append)
    recorder = StepRecorder(Ledger(tmp_path), clock, progress, seed=0)
    return TrainingProgress(recorder, "half", 1.0, lambda loss: f"{loss / 2:.1f} bits per byte")


@pytest.mark.parametrize(
    ("seconds", "left"),
    [(0.5, None), (6.0, 54.0)],  # a short first step mostly warms up
)
def test_the_first_step(
    training: TrainingProgress, updates: list[Update], seconds: float, left: float | None
) -> None:
    training(report(1, 100, seconds))
    assert updates[0].seconds_left == (None if left is None else pytest.approx(left))
    assert updates[0].tokens_per_second == 100 / seconds


def test_later_steps_count_with_all_that_is_between(
    training: TrainingProgress, updates: list[Update], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([10.0, 14.0])
    monkeypatch.setattr("regrow.pipeline.step_recorder.time.monotonic", lambda: next(now))
    training(report(1, 100, 0.5))
    training(report(2, 200, 2.0))  # and two seconds to measure and to save
    assert updates[1].seconds_left == 32.0
    assert updates[1].tokens_per_second == 50.0


def test_a_resumed_training_has_no_rate_from_earlier_tokens(
    training: TrainingProgress, updates: list[Update]
) -> None:
    training(report(6, 600, 8.0))
    assert updates[0].share == pytest.approx(0.6)
    assert updates[0].seconds_left == pytest.approx(32.0)


def test_a_held_out_loss_stays_until_the_next(
    training: TrainingProgress, updates: list[Update]
) -> None:
    training(report(1, 100, 1.0))
    training(report(2, 200, 1.0, heldout=2.4))
    training(report(3, 300, 1.0))
    assert [update.heldout for update in updates] == ["", "1.2 bits per byte", "1.2 bits per byte"]
