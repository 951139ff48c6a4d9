"""How a layer's forward and backward passes are computed: by kernels of its own, or twice."""

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
    """Raises UserError where a model cannot compute its layers again."""
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(
            f"{type(model).__name__}: cannot compute its layers again; leave recompute out"
        )


@contextmanager
def recomputing(model: Any, wanted: bool) -> Iterator[None]:
    """Inside, layers are computed again in the backward pass, where that is wanted."""
    if not wanted:
        yield
        return
    # Gradient checkpointing was its name before transformers 5.24.
    name = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"
    getattr(model, f"{name}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(model, f"{name}_checkpointing_disable")()


def check_compilable(model: nn.Module) -> None:
    """Raises UserError where a model has no layers to compile."""
    if not layers(model):
        raise UserError(f"{type(model).__name__}: no layers to compile; leave compile out")


def check_compiler(device: torch.device) -> None:
    """Raises UserError where there is no compiler for the device."""
    try:
        torch.compile(torch.neg, backend=_BACKEND)(torch.ones(2, device=device))
    except Exception as error:
        reason = one_line(str(error))[:_REASON_LENGTH]
        raise UserError(f"compile: there is no compiler here ({reason}); leave it out") from error


@contextmanager
def compiled(model: nn.Module, wanted: bool) -> Iterator[None]:
    """Inside, the forward passes of the layers are compiled, where that is wanted.

    Names of parameters stay, and hooks of FSDP stay outside of what is compiled.
    """
    if not wanted:
        yield
        return
    found = layers(model)
    for layer in found:
        # Kernels for any length from the first on: otherwise the lengths that came before would
        # decide which kernel, and so which last bits, and a resumed training saw others.
        layer.forward = torch.compile(layer.forward, dynamic=True, backend=_BACKEND)
    try:
        yield
    finally:
        for layer in found:
            del layer.forward
