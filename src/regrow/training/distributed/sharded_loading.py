"""Load a model so that the first process holds all of it, and every other one only its part.

The first process reads the file; the others build the model on the meta device. After
`fully_shard` the first process sends the parameters, one at a time, and each other process gets its
part of each.
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


def load_in_first_process(directory: Path, dtype: torch.dtype, processes: Processes) -> Any:
    """The model of a directory; in all processes but the first it is on the meta device.

    Every process must call this. Raises UserError if transformers cannot load the model.
    """
    load = load_model if processes.first else load_meta_model
    model = processes.in_all(lambda: load(directory, dtype=dtype))
    names = processes.in_first(lambda: _parameter_names(model))
    processes.in_all(lambda: _untie(model, names, directory))
    return model


def _parameter_names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def _untie(model: nn.Module, names: list[str], directory: Path) -> None:
    """Give a model without weights separate parameters where the loaded model has them.

    `names`: the parameters of the model that was loaded from the file. The config does not say
    which parameters are tied: every T5 config says that the head is tied (transformers 5.24).

    Raises UserError if the names still differ.
    """
    own = dict(model.named_parameters())
    for name in names:
        if name not in own:
            holder, _, last = name.rpartition(".")
            parameter = nn.Parameter(torch.empty_like(model.get_parameter(name)))
            setattr(model.get_submodule(holder), last, parameter)
    if _parameter_names(model) != names:
        raise UserError(f"{directory}: with weights the model has other parameters than without")


def full_parameters(model: nn.Module, processes: Processes) -> Mapping[str, Tensor] | None:
    """The parameters before sharding, by name; None if every process holds all of them.

    If they are not None, they are empty in all processes but the first.
    """
    is_incomplete = any(parameter.is_meta for parameter in model.parameters())
    if not processes.total([float(is_incomplete)])[0]:
        return None
    if not processes.first:
        return {}
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@torch.no_grad()
def distribute_parameters(
    root: nn.Module,
    model: nn.Module,
    full: Mapping[str, Tensor] | None,
    processes: Processes,
    *,
    offload: bool = False,
) -> None:
    """Give each process its part of the first process's parameters, and all of its buffers.

    `root`: the module that `fully_shard` was called on last; it contains the model. `full`: from
    `full_parameters`. `offload`: keep the parts in the CPU's memory.
    """
    if full is None:
        return
    device = processes.training_device
    if any(parameter.is_meta for parameter in model.parameters()):
        root.to_empty(device="cpu" if offload else device)
        for module in root.modules():
            for name, buffer in module.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
    for name, part in model.named_parameters():
        assert isinstance(part, DTensor)
        # Pages of an empty tensor that are never written use no memory.
        source = full[name] if processes.first else torch.empty(part.shape, dtype=part.dtype)
        received = distribute_tensor(source.to(device), part.device_mesh, part.placements)
        part.to_local().copy_(received.to_local())
    for buffer in model.buffers():
        distributed.broadcast(buffer, 0)
