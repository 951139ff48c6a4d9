"""How the layers are computed: with activation checkpointing, or compiled."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from regrow.common.errors import UserError, one_line
from regrow.models.layers import layers

_BACKEND = "inductor"
_REASON_LENGTH = 200


def check_recomputable(model: Any) -> None:
    """Raise UserError if a model does not support activation checkpointing."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"{type(model).__name__}: cannot compute its layers again; leave recompute out"
        )


@contextmanager
def recomputed_layers(model: Any, enabled: bool) -> Iterator[None]:
    """Context manager: the backward pass computes the layers again (activation checkpointing)."""
    if not enabled:
        yield
        return
    # transformers called this gradient checkpointing before 5.24.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def check_compilable(model: nn.Module) -> None:
    """Raise UserError if a model has no layers to compile."""
    if not layers(model):
        raise UserError(f"{type(model).__name__}: no layers to compile; leave compile out")


def check_compiler(device: torch.device) -> None:
    """Raise UserError if there is no compiler for the device."""
    try:
        torch.compile(torch.neg, backend=_BACKEND)(torch.ones(2, device=device))
    except Exception as error:
        reason = one_line(str(error))[:_REASON_LENGTH]
        raise UserError(
            f"there is no compiler here ({reason}); leave it out", key="compile"
        ) from error


@contextmanager
def compiled_layers(model: nn.Module, enabled: bool) -> Iterator[None]:
    """Context manager: the forward passes of the layers are compiled.

    The names of parameters do not change, and the hooks of FSDP are not compiled.
    """
    if not enabled:
        yield
        return
    found = layers(model)
    for layer in found:
        # Compile for any length from the start. Otherwise the kernels, and so the last bits, would
        # depend on the lengths seen before, and these differ in a resumed training.
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=_BACKEND)
    try:
        yield
    finally:
        for layer in found:
            del layer.forward
