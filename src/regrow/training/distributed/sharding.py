"""A model whose parameters lie in pieces, one a process, and are put together layer by layer."""

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
from regrow.training.distributed.sharded_loading import fill_parts, whole_parameters


class Learner(nn.Module):
    """A model and what it learns: one forward pass, in which all parameters are read.

    An objective calls parts of a model and reads its head, which FSDP would not see.
    """

    def __init__(self, model: nn.Module, objective: Loss) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The summed loss, and that of each token, as objectives have them."""
        return self.objective(self.model, batch)


def check_replicas(replicas: int, count: int) -> None:
    """Raises UserError where so many processes cannot be dealt into so many groups."""
    if replicas == 1:
        return
    if count == 1:
        raise UserError(
            f"replicas ({replicas}): one process has nobody to share with; leave it out, or start "
            "several with torchrun"
        )
    if count % replicas:
        raise UserError(
            f"replicas ({replicas}): {count} processes cannot be dealt into so many groups; "
            f"{count} should be a multiple of it"
        )


def check_offload(count: int, device: torch.device) -> None:
    """Raises UserError where so many processes with this device have nothing to offload."""
    if device.type == "cpu":
        raise UserError("offload: all is in the CPU's memory as it is; leave it out")
    if count == 1:
        raise UserError(
            "offload: one process keeps all where it trains; leave it out, or start several with "
            "torchrun"
        )


def shard(
    model: nn.Module,
    objective: Loss,
    processes: Processes,
    replicas: int = 1,
    *,
    offload: bool = False,
) -> Learner:
    """Share each layer's parameters out, and what is left (embeddings, head, norms) as one.

    A process other than the first may have its model on the meta device: it gets its parts.
    Parameters become DTensors of their whole shape, on the processes' device; gradients are sums
    over all processes. One process shares nothing. `replicas`: groups that share the model out
    each among its own processes, which follow each other in rank. `offload`: parts lie in the CPU's
    memory, and so do their gradients.
    """
    learner = Learner(model, objective)
    if processes.mesh is None:
        return learner
    mesh = processes.mesh if replicas == 1 else _groups(processes.mesh, replicas)
    pinned = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda")
    policy = pinned if offload else OffloadPolicy()
    whole = whole_parameters(model, processes)
    for module in (*reversed(layers(model)), learner):
        fully_shard(module, mesh=mesh, offload_policy=policy)
    fill_parts(learner, model, whole, processes, offload=offload)
    for module in learner.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            # Gloo sums, and knows no product with a factor.
            module.set_force_sum_reduction_for_comms(True)
    return learner


@cache
def _groups(mesh: DeviceMesh, replicas: int) -> DeviceMesh:
    shape = (replicas, mesh.size() // replicas)
    return init_device_mesh(mesh.device_type, shape, mesh_dim_names=("replicas", "parts"))


@contextmanager
def readable(learner: Learner) -> Iterator[None]:
    """Inside, the model itself can be called, by all processes alike, if it was trained before."""
    if not isinstance(learner, FSDPModule):
        yield
        return
    learner.unshard()
    try:
        yield
    finally:
        learner.reshard()


@torch.no_grad()
def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """A trained model's state dict as one process has it, on the CPU; tied names share a tensor.

    Every process must call it; all but the first get an empty one.
    """
    kept = not distributed.is_initialized() or distributed.get_rank() == 0
    found: dict[str, Tensor] = {}
    by_id: dict[int, Tensor] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in by_id:
            whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            by_id[id(tensor)] = whole.detach().cpu() if kept else whole.new_empty(0)
        if kept:
            found[name] = by_id[id(tensor)]
    return found
