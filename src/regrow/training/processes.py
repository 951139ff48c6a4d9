"""The processes that train one model together, as torchrun starts them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from regrow.errors import UserError

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """This process among those that train.

    Attributes:
        rank: 0 for the one that writes and speaks.
        count: Of all.
        mesh: All of them along one dimension; None where there is but one.
        device: That this one trains on; None where that is the model's own to say.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    device: torch.device | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def total(self, values: list[float]) -> list[float]:
        """The sums over all processes, in float64, the same in each."""
        if self.count == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(found)
        return [float(value) for value in found.tolist()]

    def in_first(self, work: Callable[[], _T]) -> _T:
        """Do it in the first process alone; what it returns, or its UserError, in all."""
        if self.count == 1:
            return work()
        found: list[_T | None] = [None]
        error: list[str | None] = [None]
        if self.first:
            try:
                found = [work()]
            except UserError as caught:
                error = [str(caught)]
        both = [*found, *error]
        distributed.broadcast_object_list(both, src=0, device=self.device)
        if both[1] is not None:
            raise UserError(str(both[1]))
        return both[0]  # type: ignore[return-value]


def join_processes() -> Processes:
    """Those that torchrun started, one a GPU where there are GPUs; without torchrun, this one."""
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        distributed.init_process_group()
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return Processes()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Processes(rank, count, init_device_mesh(device.type, (count,)), device)
