"""A model of which the first process has all, and every other one no more than its part.

The first reads the file; the others build the model without memory. After `fully_shard` each
parameter goes from the first to all, one at a time and to each its part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from regrow.common.errors import UserError
from regrow.models.loading import load_meta_model, load_model
from regrow.training.distributed.processes import Processes


def load_in_first(directory: Path, dtype: torch.dtype, processes: Processes) -> Any:
    """The model of a directory; in all processes but the first on the meta device.

    All call it alike. Raises UserError where transformers cannot load it.
    """
    load = load_model if processes.first else load_meta_model
    model = processes.in_all(lambda: load(directory, dtype=dtype))
    names = processes.in_first(lambda: _names(model))
    processes.in_all(lambda: _untie(model, names, directory))
    return model


def _names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _untie(model: nn.Module, names: list[str], directory: Path) -> None:
    """Give a model the parameters of these names: who reads the file knows what it does not tie.

    Configs of T5 say that its head is tied, always (transformers 5.24).
    """
    own = dict(model.named_parameters())
    for name in names:
        if name not in own:
            holder, _, last = name.rpartition(".")
            parameter = nn.Parameter(torch.empty_like(model.get_parameter(name)))
            setattr(model.get_submodule(holder), last, parameter)
    if _names(model) != names:
        raise UserError(f"{directory}: with weights the model has other parameters than without")


def whole_parameters(model: nn.Module, processes: Processes) -> Mapping[str, Tensor] | None:
    """By name, before they are shared out, in the first; None where every process has them all."""
    lacks = any(parameter.is_meta for parameter in model.parameters())
    if not processes.total([float(lacks)])[0]:
        return None
    if not processes.first:
        return {}
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def fill_parts(
    root: nn.Module,
    model: nn.Module,
    whole: Mapping[str, Tensor] | None,
    processes: Processes,
    *,
    offload: bool = False,
) -> None:
    """Give each process its part of the first one's parameters, and all of its buffers.

    `root`: what was given to `fully_shard` last, with the model in it. `whole`: of
    `whole_parameters`. `offload`: parts lie in the CPU's memory.
    """
    if whole is None:
        return
    device = processes.trains_on
    if any(parameter.is_meta for parameter in model.parameters()):
        root.to_empty(device="cpu" if offload else device)
        for module in root.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
    for name, part in model.named_parameters():
        assert isinstance(part, DTensor)
        # Memory that is never written takes none.
        full = whole[name] if processes.first else torch.empty(part.shape, dtype=part.dtype)
        given = distribute_tensor(full.to(device), part.device_mesh, part.placements)
        part.to_local().copy_(given.to_local())
    for buffer in model.buffers():
        distributed.broadcast(buffer, 0)
