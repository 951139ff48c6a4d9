"""Silence what a cut drops, in the uncut model: the reference of the proof of a blueprint.

Modules are replaced or hooked by name. Dropped layers pass their input on. Dropped neurons and
heads become 0 at the input of the module that reads them. Dropped hidden channels become 0 and are
left out of the norms. Routers do not see dropped experts.
"""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from regrow.architectures import Layout
from regrow.cuts.cut import AxisCut, Cut


@contextlib.contextmanager
def silenced(model: nn.Module, layout: Layout, cut: Cut) -> Iterator[None]:
    """Context manager: the uncut model with all that the cut drops silenced where it is read.

    `model`: the transformers model of `layout`. The cut of the vocabulary is not applied.
    """
    with contextlib.ExitStack() as stack:
        for axis in layout.blueprint.axes:
            if axis.name not in cut.axes:
                continue
            if axis.kind == "layer":
                kept = set(cut.axes[axis.name].keep.tolist())
                for index in range(layout.sizes[axis.name]):
                    if index not in kept:
                        for name in layout.modules(axis.sites, (axis.name, index)):
                            stack.enter_context(_identity(model.get_submodule(name)))
            elif axis.kind == "hidden":
                for name in layout.modules(axis.sites):
                    norm = model.get_submodule(name)
                    stack.enter_context(_norm_over(norm, cut.axes[axis.name].keep))
                for name in layout.blueprint.embeddings:
                    if _lies_along(name, axis.name):
                        module = model.get_submodule(name)
                        stack.enter_context(_masked_output(module, cut.axes[axis.name].keep))
            elif axis.kind == "expert":
                for layer, row in _kept_layers(layout, cut):
                    for name in layout.modules(axis.sites, layer):
                        router = model.get_submodule(f"{name}.gate")
                        keep = cut.axes[axis.name].row(row)
                        stack.enter_context(_router_over(router, keep))
            elif axis.kind != "vocab":
                for layer, row in _kept_layers(layout, cut):
                    for name in layout.modules(axis.sites, layer):
                        module = model.get_submodule(name)
                        stack.enter_context(_masked_input(module, cut.axes[axis.name], row))
                    for name in layout.modules(axis.inside_norms, layer):
                        norm = model.get_submodule(name)
                        keep = _channels(cut.axes[axis.name], row, norm)
                        stack.enter_context(_norm_over(norm, keep))
        yield


def _lies_along(module: str, axis: str) -> bool:
    """Whether the output of an embedding lies along this hidden axis (T5Gemma has two of them)."""
    stack = axis.rpartition(".")[0]
    return not stack or f".{stack}." in f".{module}."


def _kept_layers(layout: Layout, cut: Cut) -> Iterator[tuple[tuple[str, int], int]]:
    """The kept layers of all stacks, as axis and number, each with its number after the cut."""
    for axis in layout.blueprint.axes:
        if axis.kind == "layer":
            for row, index in enumerate(cut.layers(axis.name, layout.sizes[axis.name]).tolist()):
                yield (axis.name, index), row


def _channels(axis: AxisCut, layer: int, norm: Any) -> Any:
    """The channels of a norm that belong to the kept heads of a layer."""
    head_size = norm.weight.shape[0] // axis.size
    return (axis.row(layer)[:, None] * head_size + np.arange(head_size)).reshape(-1)


@contextlib.contextmanager
def _identity(layer: nn.Module) -> Iterator[None]:
    """Context manager: the layer gives its input hidden states as its output."""
    forward = layer.forward

    def pass_through(*args: Any, **kwargs: Any) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        output = forward(*args, **kwargs)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    with mock.patch.object(layer, "forward", pass_through):
        yield


@contextlib.contextmanager
def _masked_input(module: nn.Module, axis: AxisCut, layer: int) -> Iterator[None]:
    """Context manager: dropped neurons or heads are 0 in the input of the module."""

    def mask(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        width = args[0].shape[-1] // axis.size
        keep = torch.zeros(axis.size, width, dtype=args[0].dtype)
        keep[axis.row(layer).copy()] = 1
        return (args[0] * keep.reshape(-1), *args[1:])

    handle = module.register_forward_pre_hook(mask)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _router_over(router: Any, keep: Any) -> Iterator[None]:
    """Context manager: the router chooses among the experts in `keep` as if there were no others.

    A router gives its logits, [tokens, experts], and the weights and numbers of the chosen experts,
    [tokens, chosen] each.
    """
    kept = torch.from_numpy(np.array(keep))
    part = copy.deepcopy(router)
    part.weight = nn.Parameter(router.weight[kept])

    def forward(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits, weights, chosen = part(hidden)
        return logits, weights, kept[chosen]

    with mock.patch.object(router, "forward", forward):
        yield


@contextlib.contextmanager
def _masked_output(module: nn.Module, keep: Any) -> Iterator[None]:
    """Context manager: channels that are not in `keep` are 0 in the output of the module."""

    def mask(_: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept = torch.zeros(output.shape[-1], dtype=output.dtype)
        kept[keep.copy()] = 1
        return output * kept

    handle = module.register_forward_hook(mask)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def _norm_over(norm: nn.Module, keep: Any) -> Iterator[None]:
    """Context manager: the norm sees only the channels in `keep`, and gives 0 for the others."""
    kept = torch.from_numpy(np.array(keep))
    part = copy.deepcopy(norm)
    for name, parameter in list(part.named_parameters()):
        setattr(part, name, nn.Parameter(parameter[kept]))
    if isinstance(part, nn.LayerNorm):
        part.normalized_shape = (len(kept),)

    def forward(hidden: Tensor) -> Tensor:
        output = torch.zeros_like(hidden)
        output[..., kept] = part(hidden[..., kept])
        return output

    with mock.patch.object(norm, "forward", forward):
        yield
