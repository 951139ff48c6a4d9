"""Speeds are measured in turns, so that what else the machine does changes no ratio."""

from pathlib import Path
from typing import Any

import pytest
import torch

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.evaluation import generation, speed
from regrow.evaluation.speed import Speed, measure_speeds
from tests.tiny import write_model

torch.set_num_threads(1)
NAMES = ("original", "half", "third")


@pytest.fixture
def models(tmp_path: Path) -> list[ModelDirectory]:
    return [ModelDirectory(write_model(tmp_path / name)) for name in NAMES]


class Machine:
    """Records which models are loaded and generate; each takes a time of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.loads: list[str] = []
        monkeypatch.setattr(generation, "seconds_per_token", self.generate)
        monkeypatch.setattr(ModelDirectory, "load", lambda model: self.load(model))

    def load(self, model: ModelDirectory) -> str:
        self.loads.append(model.path.name)
        return model.path.name

    def generate(self, model: str, *_: Any) -> float:
        self.texts.append(model)
        return {"original": 1.0, "half": 0.5, "third": 1 / 3}[model]


def test_a_busy_machine_changes_no_ratio(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    plain = machine.generate

    def slower_every_round(model: str, *more: Any) -> float:
        busy = 1 + len(machine.texts) // 3  # three texts a round
        return busy * plain(model, *more)

    monkeypatch.setattr(generation, "seconds_per_token", slower_every_round)
    original, half, third = measure_speeds(models, rounds=3)
    assert machine.texts == [*NAMES, *reversed(NAMES)] * 2
    assert original.tokens_per_second == pytest.approx((1 / 2, 1 / 3, 1 / 4))
    assert (original.ratio, half.ratio, third.ratio) == pytest.approx((1, 2, 3))
    assert half.median == pytest.approx(2 / 3)
    assert half.spread == pytest.approx(((1 + 2 / 3) / 2 - (2 / 3 + 1 / 2) / 2) / 2)
    assert machine.loads == list(NAMES)


def test_large_models_go_in_pairs_or_are_loaded_anew(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 4 * models[0].layout.parameters()
    machine = Machine(monkeypatch)
    monkeypatch.setattr(speed, "available_memory", lambda: 3 * size)
    _, half, third = measure_speeds(models, rounds=1)
    assert machine.loads == list(NAMES)
    assert machine.texts == [
        "original", "half", "half", "original", "original", "third", "third", "original",
    ]  # fmt: skip
    assert (half.ratio, third.ratio) == pytest.approx((2, 3))
    machine.loads, machine.texts = [], []
    monkeypatch.setattr(speed, "available_memory", lambda: size)
    measure_speeds(models, rounds=1)
    assert machine.loads == machine.texts
    assert len(machine.loads) == 8


def test_real_models_generate(models: list[ModelDirectory]) -> None:
    first, second = measure_speeds(models[:2], new_tokens=3, rounds=2)
    assert len(first.tokens_per_second) == len(second.tokens_per_second) == 2
    assert first.beside == first.tokens_per_second == second.beside
    assert second.median > 0


def test_models_are_compared_within_rounds() -> None:
    found = Speed((2.0, 4.0, 9.0), (1.0, 4.0, 3.0))
    assert found.ratio == 2  # 2, 1 and 3 times as fast
    assert (found.median, found.spread) == (4, (6.5 - 3) / 2)
    assert Speed((2.0,), (1.0,)).spread == 0


def test_each_round_has_both_speeds() -> None:
    with pytest.raises(ValueError, match="of each round"):
        Speed((1.0, 2.0), (1.0,))
