"""Shard a model: each process holds a part of each layer, and gathers one layer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from regrow.common.errors import UserError
from regrow.models.layers import layers
from regrow.objectives.losses.loss import Loss, TensorBatch
from regrow.training.distributed.processes import Processes
from regrow.training.distributed.sharded_loading import distribute_parameters, full_parameters


class Learner(nn.Module):
    """A model and its loss as one module, whose forward pass reads all parameters.

    A loss calls parts of a model and reads its head. FSDP gathers parameters only when the
    forward pass of a sharded module is called.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The summed loss, and the loss of each predicted token [tokens]."""
        return self.loss(self.model, batch)


def check_replicas(replicas: int, count: int) -> None:
    """Raise UserError if `count` processes cannot form `replicas` groups of the same size."""
    if replicas == 1:
        return
    if count == 1:
        raise UserError(
            "one process has nobody to share with; leave it out, or start several with torchrun",
            key="replicas",
            value=replicas,
        )
    if count % replicas:
        raise UserError(
            f"{count} processes cannot be dealt into so many groups; {count} should be a multiple "
            "of it",
            key="replicas",
            value=replicas,
        )


def check_offload(count: int, device: torch.device) -> None:
    """Raise UserError if there is nothing to offload: on a CPU, or with a single process."""
    if device.type == "cpu":
        raise UserError("all is in the CPU's memory as it is; leave it out", key="offload")
    if count == 1:
        raise UserError(
            "one process keeps all where it trains; leave it out, or start several with torchrun",
            key="offload",
        )


def shard(
    model: nn.Module,
    loss: Loss,
    processes: Processes,
    replicas: int = 1,
    *,
    offload: bool = False,
) -> Learner:
    """Shard each layer, and the remaining parameters (embeddings, head, norms) together.

    Parameters become DTensors of the full shape, on the device of the processes. Gradients are sums
    over all processes. A single process shards nothing. The model may be on the meta device in all
    processes but the first; these receive their parts.

    `replicas`: groups of processes with consecutive ranks; each group holds a whole model.
    `offload`: keep the parts and their gradients in the CPU's memory.
    """
    learner = Learner(model, loss)
    if processes.mesh is None:
        return learner
    mesh = processes.mesh if replicas == 1 else _replica_mesh(processes.mesh, replicas)
    cpu_policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    policy = cpu_policy if offload else OffloadPolicy()
    full = full_parameters(model, processes)
    for module in (*reversed(layers(model)), learner):
        fully_shard(module, mesh=mesh, offload_policy=policy)
    distribute_parameters(learner, model, full, processes, offload=offload)
    for module in learner.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Gloo can sum, but cannot sum and multiply by a factor.
            module.set_force_sum_reduction_for_comms(True)
    return learner


@cache
def _replica_mesh(mesh: DeviceMesh, replicas: int) -> DeviceMesh:
    shape = (replicas, mesh.size() // replicas)
    return init_device_mesh(mesh.device_type, shape, mesh_dim_names=("replicas", "parts"))


@contextmanager
def unsharded(learner: Learner) -> Iterator[None]:
    """Context manager: gather all parameters, so that the model itself can be called.

    Every process must enter it. The model must have been trained for a step before.
    """
    if not isinstance(learner, FSDPModule):
        yield
        return
    learner.unshard()
    try:
        yield
    finally:
        learner.reshard()


@torch.no_grad()
def full_state_dict(model: nn.Module) -> dict[str, Tensor]:
    """The unsharded state dict of a model, on the CPU; tied names share a tensor.

    Every process must call this; all but the first get an empty dict.
    """
    is_first = not distributed.is_initialized() or distributed.get_rank() == 0
    found: dict[str, Tensor] = {}
    by_id: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in by_id:
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            by_id[id(tensor)] = full.detach().cpu() if is_first else full.new_empty(0)
        if is_first:
            found[name] = by_id[id(tensor)]
    return found
