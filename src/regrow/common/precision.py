"""The type of matrix products: bfloat16 if the hardware multiplies it, else float32.

A CPU without bfloat16 instructions emulates them at less than a hundredth of its float32 rate (1.2
against 163 GFLOP/s with AVX2). Weights, sums and optimiser states are always float32.
"""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]
"""The precision of a setting; `auto` takes bf16 if the device multiplies it in hardware."""

_CPU_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


def resolve_precision(precision: Precision, device: "torch.device") -> Literal["bf16", "fp32"]:
    """The type of matrix products that `precision` stands for on a device."""
    if precision != "auto":
        return precision
    return "bf16" if _multiplies_bf16(device) else "fp32"


def autocast(
    precision: Precision, device: "torch.device", *, cache: bool = True
) -> "torch.autocast":
    """Context manager: matrices are multiplied in the type that `precision` stands for.

    `cache`: keep narrow copies of the weights until the end of the block. They take memory, and
    stay as they are if a weight changes.
    """
    import torch

    enabled = resolve_precision(precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache)


def weights_dtype(precision: Precision, device: "torch.device") -> "torch.dtype":
    """The type to load a model in that is not trained: that of its matrix products."""
    import torch

    return torch.bfloat16 if resolve_precision(precision, device) == "bf16" else torch.float32


def available_device() -> "torch.device":
    """A GPU if there is one, else the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _multiplies_bf16(device: "torch.device") -> bool:
    import torch

    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        found = torch.cpu.get_capabilities()
        return any(found.get(name, False) for name in _CPU_INSTRUCTIONS)
    return False
