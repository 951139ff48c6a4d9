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

from regrow.loading import load_meta_model, load_model
from regrow.training.processes import Processes


def load_in_first(directory: Path, dtype: torch.dtype, processes: Processes) -> Any:
    """The model of a directory; in all processes but the first on the meta device.

    All call it alike. Raises UserError where transformers cannot load it.
    """
    load = load_model if processes.first else load_meta_model
    model = processes.in_all(lambda: load(directory, dtype=dtype))
    # What a file ties or does not is known only to who reads it.
    names = processes.in_first(lambda: [name for name, _ in model.named_parameters()])
    if names != [name for name, _ in model.named_parameters()]:
        model = load_model(directory, dtype=dtype)
    return model


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
