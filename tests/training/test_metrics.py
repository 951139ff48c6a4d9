"""Numbers of each step."""

from typing import Any

import pytest
import torch

from regrow.training.metrics import Meter
from regrow.training.task import StepReport

CPU = torch.device("cpu")


def report(**changes: Any) -> StepReport:
    values: dict[str, Any] = {
        "step": 7, "steps": 9, "tokens": 7000, "loss": 4.0, "gradient_norm": 0.5,
        "learning_rate": 1e-3, "heldout": None, "mixture_losses": None, "seconds": 900.0,
        "skipped": None, "step_tokens": 1000, "step_seconds": 2.0, "shares": None,
        "component_losses": {},
    }  # fmt: skip
    return StepReport(**values | changes)


def test_numbers_of_a_step() -> None:
    found = Meter(flops=4e9, device=CPU, devices=2).numbers(report())
    assert found.pop("memory/peak_gb") > 0.05
    assert found == {
        "train/loss": 4.0, "train/gradient_norm": 0.5, "train/learning_rate": 1e-3,
        "train/tokens": 7000, "train/skipped": 0, "speed/tokens_per_second": 500,
        "speed/seconds_per_step": 2.0, "speed/tflops_per_device": 1.0,
    }  # fmt: skip


def test_what_is_measured_at_times() -> None:
    found = Meter(flops=1, device=CPU, devices=1).numbers(
        report(
            component_losses={"domain/code": 3.0},
            heldout=3.5,
            mixture_losses={"denoiser/S": 2.5},
            shares={"denoiser/S": 0.25},
            skipped="nan",
        )
    )
    assert (found["heldout/loss"], found["heldout/denoiser/S"]) == (3.5, 2.5)
    assert found["mixture/denoiser/S"] == 0.25
    assert found["train/domain/code"] == 3.0
    assert found["train/skipped"] == 1


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA L4", 121e12),
        ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA RTX A1000", None), ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None), ("Tesla T4", None),
    ],
)  # fmt: skip
def test_utilisation_is_of_what_all_devices_could_do(
    monkeypatch: pytest.MonkeyPatch, name: str, peak: float | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 3e9)
    found = Meter(989e9, torch.device("cuda", 0), devices=2).numbers(report())
    if peak is None:
        assert "speed/model_flops_utilisation" not in found
    else:
        used = found["speed/model_flops_utilisation"]
        assert used == pytest.approx(500 * 989e9 / peak / 2)
    assert found["memory/peak_gb"] == 3.0
