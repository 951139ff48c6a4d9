"""The numbers of a training step, by name, for whoever draws them."""

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from regrow.training.task import StepReport

_PEAKS = {
    "GB200": 2500e12, "B200": 2250e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "H200": 989e12, "GH200": 989e12, "H20": 148e12, "A100": 312e12, "A30": 165e12, "A10G": 70e12,
    "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "MI300X": 1307e12,
    "RTX 6000 Ada": 364e12, "RTX A6000": 155e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense bf16 operations a second of a GPU, as its maker states them, by words of its name."""
_SLOWER = re.compile(r"\b(Laptop|MIG|Max-Q)\b")
"""Words of a name that is not the whole of what it is named after."""


@dataclass(frozen=True)
class Meter:
    """Turns reports of steps into numbers by name.

    Attributes:
        flops: Operations of training on one token of text.
        device: Of this process.
        devices: That share the work.
    """

    flops: float
    device: torch.device
    devices: int

    def numbers(self, report: "StepReport") -> dict[str, float]:
        """Losses in nats per token; names as `docs/training.md` has them."""
        rate = report.step_tokens / report.step_seconds
        of_each = rate * self.flops / self.devices
        found = {
            "train/loss": report.loss,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "train/tokens": float(report.tokens),
            "train/skipped": float(report.skipped is not None),
            "speed/tokens_per_second": rate,
            "speed/seconds_per_step": report.step_seconds,
            "speed/tflops_per_device": of_each / 1e12,
            "memory/peak_gb": _peak_bytes(self.device) / 1e9,
        }
        peak = _peak_flops(self.device)
        if peak is not None:
            found["speed/model_flops_utilisation"] = of_each / peak
        if report.heldout is not None:
            found["heldout/loss"] = report.heldout
        for group, values in (
            ("train", report.component_losses), ("heldout", report.mixture_losses),
            ("mixture", report.shares),
        ):  # fmt: skip
            found |= {f"{group}/{name}": value for name, value in (values or {}).items()}
        return found


def _peak_bytes(device: torch.device) -> int:
    """The most that tensors took on a GPU; else that this process took."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_flops(device: torch.device) -> float | None:
    """None where it is not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if _SLOWER.search(name):
        return None
    return next(
        (peak for words, peak in _PEAKS.items() if all(re.search(rf"\b{word}\b", name)
         for word in words.split())), None,
    )  # fmt: skip
