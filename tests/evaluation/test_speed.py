"""Speeds are measured in turns, so that what else the machine does changes no ratio."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.environment import machine
from regrow.common.errors import UserError
from regrow.evaluation import generation, speed
from regrow.evaluation.generation import TimedText
from regrow.evaluation.speed import Memory, Speed, measure_speeds
from tests.tiny import write_model

torch.set_num_threads(1)
NAMES = ("original", "half", "third")


@pytest.fixture
def models(tmp_path: Path) -> list[ModelDirectory]:
    return [ModelDirectory(write_model(tmp_path / name)) for name in NAMES]


class Loaded:
    """Stands for a loaded model of 10 weights."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.name, self.dtype, self.device = name, dtype, torch.device("cpu")

    def to(self, device: torch.device) -> "Loaded":
        self.device = device
        return self

    def parameters(self) -> list[torch.Tensor]:
        return [torch.zeros(4, dtype=self.dtype), torch.zeros(2, 3, dtype=self.dtype)]


class Machine:
    """Records which models are loaded and generate; each takes a time of its own for a token.

    To read the prompt takes 0.25 s of the time of the first token.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.texts: list[str] = []
        self.loads: list[str] = []
        self.on: list[tuple[torch.device, torch.dtype]] = []
        self.peaks: list[int | None] = [None]
        monkeypatch.setattr(generation, "timed_text", self.generate)
        monkeypatch.setattr(ModelDirectory, "load", lambda model, dtype: self.load(model, dtype))

    def load(self, model: ModelDirectory, dtype: torch.dtype) -> Loaded:
        self.loads.append(model.path.name)
        return Loaded(model.path.name, dtype)

    def generate(self, model: Loaded, _: Any, __: str, new_tokens: int) -> TimedText:
        seconds = {"original": 1.0, "half": 0.5, "third": 1 / 3}[model.name] * new_tokens
        self.on.append((model.device, model.dtype))
        if new_tokens == 1:
            return TimedText(0.25 + seconds, 1, 8, None)
        self.texts.append(model.name)
        peak = self.peaks[len(self.texts) % len(self.peaks)]
        return TimedText(seconds, new_tokens, 8 * new_tokens, peak)


def test_a_busy_machine_changes_no_ratio(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(monkeypatch)
    plain = machine.generate

    def slower_every_round(model: Loaded, tokenizer: Any, prompt: str, count: int) -> TimedText:
        # Three texts a round; a first token follows its text.
        busy = 1 + (len(machine.texts) - (count == 1)) // 3
        return replace(
            found := plain(model, tokenizer, prompt, count), seconds=busy * found.seconds
        )

    monkeypatch.setattr(generation, "timed_text", slower_every_round)
    original, half, third = measure_speeds(models, rounds=3)
    assert machine.texts == [*NAMES, *reversed(NAMES)] * 2
    assert original.tokens_per_second == pytest.approx((1 / 2, 1 / 3, 1 / 4))
    assert (original.ratio, half.ratio, third.ratio) == pytest.approx((1, 2, 3))
    assert half.median == pytest.approx(2 / 3)
    assert half.spread == pytest.approx(((1 + 2 / 3) / 2 - (2 / 3 + 1 / 2) / 2) / 2)
    assert half.first_token_seconds == pytest.approx((1.5, 2.25, 3.0))
    assert half.first_token == pytest.approx(2.25)
    assert half.first_token_spread == pytest.approx(0.375)
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
    assert len(second.first_token_seconds) == 2
    model = models[0].load()
    weights = sum(each.numel() for each in model.parameters())
    config, read = model.config, len(models[0].tokenizer(speed.PROMPT)["input_ids"])
    # The last token is written and not read.
    states = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    assert first.memory == Memory(4 * weights, 4 * states * (read + 3 - 1), None)


def test_a_cpu_computes_in_float32_whatever_it_multiplies(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Machine(monkeypatch)
    (found,) = measure_speeds(models[:1], new_tokens=3, rounds=1, precision="bf16")
    assert {*made.on} == {(torch.device("cpu"), torch.float32)}
    assert found.dtype == "float32"
    assert found.device == f"{machine()['cpu']}, 1 thread"
    assert found.memory == Memory(40, 24, None)


@pytest.mark.parametrize(("precision", "size"), [("auto", 2), ("bf16", 2), ("fp32", 4)])
def test_a_gpu_is_used_as_an_evaluation_uses_it(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch, precision: Any, size: int
) -> None:
    made = Machine(monkeypatch)
    made.peaks = [300, 200, 100]
    free = [2 * sum(size * each.layout.parameters() for each in models)]
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(cuda, "get_device_name", lambda _: "a GPU")
    monkeypatch.setattr(cuda, "mem_get_info", lambda _: (free[0], 0))
    monkeypatch.setattr(speed, "available_memory", lambda: 0)
    first, *_ = measure_speeds(models, new_tokens=3, rounds=3, precision=precision)
    dtype = {2: torch.bfloat16, 4: torch.float32}[size]
    assert {*made.on} == {(torch.device("cuda"), dtype)}
    assert (first.device, first.dtype) == ("a GPU", str(dtype).removeprefix("torch."))
    # The first round, of texts 1 to 3, warms up; texts 6, 7 and 12 are the original's.
    assert first.memory == Memory(10 * size, 24, 10 * size + 300)
    assert made.loads == list(NAMES)
    free[0] = size * models[0].layout.parameters()  # two do not fit
    made.loads, made.texts = [], []
    measure_speeds(models, rounds=1, precision=precision)
    assert made.loads == made.texts


def test_a_gpu_without_room_is_one_line(
    models: list[ModelDirectory], monkeypatch: pytest.MonkeyPatch
) -> None:
    Machine(monkeypatch)

    def full(*_: Any) -> Loaded:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Loaded, "to", full)
    with pytest.raises(UserError, match=r"original: cannot be moved to cpu \(OutOfMemoryError"):
        measure_speeds(models, rounds=1)


def test_results_of_before_have_no_first_token_and_were_of_a_cpu() -> None:
    old = {"tokens_per_second": [2.0], "beside": [1.0]}
    found = TypeAdapter(Speed).validate_python(old)
    assert (found.first_token, found.first_token_spread, found.memory) == (None, 0, None)
    assert (found.device, found.dtype) == ("CPU", "float32")
    new = replace(found, first_token_seconds=(0.5,), memory=Memory(8, 2))
    assert TypeAdapter(Speed).validate_python(json.loads(json.dumps(asdict(new)))) == new


def test_models_are_compared_within_rounds() -> None:
    found = Speed((2.0, 4.0, 9.0), (1.0, 4.0, 3.0))
    assert found.ratio == 2  # 2, 1 and 3 times as fast
    assert (found.median, found.spread) == (4, (6.5 - 3) / 2)
    assert Speed((2.0,), (1.0,)).spread == 0


def test_each_round_has_both_speeds() -> None:
    with pytest.raises(ValueError, match="of each round"):
        Speed((1.0, 2.0), (1.0,))
