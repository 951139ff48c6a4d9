"""The numbers of a training step, by name, for the tools that draw them."""

import re
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from regrow.training.task import StepReport

_PEAK_FLOPS = {
    "GB200": 2500e12, "B200": 2250e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "H200": 989e12, "GH200": 989e12, "H20": 148e12, "A100": 312e12, "A30": 165e12, "A10G": 70e12,
    "A10": 125e12, "L40S": 362e12, "L40": 181e12, "L4": 121e12, "MI300X": 1307e12,
    "RTX 6000 Ada": 364e12, "RTX A6000": 155e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
"""Dense bf16 operations per second of a GPU, from its data sheet, by words of its name."""
_SLOWER_VARIANT = re.compile(r"\b(Laptop|MIG|Max-Q)\b")
"""Words in the name of a slower variant or of a part of a GPU."""


@dataclass(frozen=True)
class Meter:
    """Turns the report of a step into numbers by name.

    Attributes:
        flops: Floating-point operations of training on one token of text.
        device: Device of this process.
        devices: Number of devices that share the work.
    """

    flops: float
    device: torch.device
    devices: int

    def numbers(self, report: "StepReport") -> dict[str, float]:
        """The numbers under the names of `docs/training.md`; losses in nats per token."""
        rate = report.step_tokens / report.step_seconds
        flops_per_device = rate * self.flops / self.devices
        found = {
            "train/loss": report.loss,
            "train/gradient_norm": report.gradient_norm,
            "train/learning_rate": report.learning_rate,
            "train/tokens": float(report.tokens),
            "train/skipped": float(report.skipped is not None),
            "speed/tokens_per_second": rate,
            "speed/seconds_per_step": report.step_seconds,
            "speed/tflops_per_device": flops_per_device / 1e12,
            "memory/peak_gb": _peak_bytes(self.device) / 1e9,
        }
        peak = _peak_flops(self.device)
        if peak is not None:
            found["speed/model_flops_utilisation"] = flops_per_device / peak
        if report.heldout is not None:
            found["heldout/loss"] = report.heldout
        for group, values in (
            ("train", report.component_losses), ("heldout", report.mixture_losses),
            ("mixture", report.shares),
        ):  # fmt: skip
            found |= {f"{group}/{name}": value for name, value in (values or {}).items()}
        return found


def _peak_bytes(device: torch.device) -> int:
    """Peak memory of tensors on a GPU; on a CPU, of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _peak_flops(device: torch.device) -> float | None:
    """Dense bf16 operations per second of a device; None if they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    if _SLOWER_VARIANT.search(name):
        return None
    return next(
        (peak for words, peak in _PEAK_FLOPS.items() if all(re.search(rf"\b{word}\b", name)
         for word in words.split())), None,
    )  # fmt: skip
