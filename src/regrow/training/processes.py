"""The processes that train one model together, as torchrun starts them."""

import datetime
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from regrow.errors import SaidError, UserError

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
            raise self.error(str(both[1]))
        return both[0]  # type: ignore[return-value]

    def in_all(self, work: Callable[[], _T]) -> _T:
        """Do it in every process; where one cannot, all raise what it said."""
        if self.count == 1:
            return work()
        said: str | None = None
        try:
            done = work()
        except UserError as error:
            said = str(error)
        everyone: list[str | None] = [None] * self.count
        distributed.all_gather_object(everyone, said)
        for rank, theirs in enumerate(everyone):
            if theirs is not None:
                where = "" if everyone[0] is not None else f"process {rank}: "
                raise self.error(f"{where}{theirs}")
        return done

    def error(self, text: str) -> UserError:
        """What to raise where all processes raise the same."""
        return UserError(text) if self.first else SaidError(text)


_TO_MEET = datetime.timedelta(minutes=10)
_LOOK_AGAIN = datetime.timedelta(milliseconds=200)


def meet(store: Store, rank: int, count: int) -> str:
    """A name for those who meet now, that none who met before had.

    torchrun 2.13 starts killed processes again with the store that they had, in which they find
    each other's addresses of before; and how often each node was started, it counts apart. So the
    first makes up a name; each of the others adds its own to it, until that is known to the first.
    """
    own, leader = uuid.uuid4().hex, "leader"
    if rank == 0:
        store.set(leader, own)
        guests = [store.get(f"{own}/{other}").decode() for other in range(1, count)]
        store.set(f"{own}/all", " ".join(guests))
        return own
    while True:
        name: str = store.get(leader).decode()
        store.set(f"{name}/{rank}", own)
        # The first may have been one that is no more.
        try:
            store.wait([f"{name}/all"], _LOOK_AGAIN)
        except distributed.DistStoreError:
            continue
        if own in store.get(f"{name}/all").decode().split():
            return name
        time.sleep(_LOOK_AGAIN.total_seconds())


def join_processes() -> Processes:
    """Those that torchrun started, one a GPU where there are GPUs; without torchrun, this one."""
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        store, rank, count = next(rendezvous("env://", timeout=_TO_MEET))
        store = PrefixStore(meet(store, rank, count), store)
        distributed.init_process_group(store=store, rank=rank, world_size=count)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return Processes()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return Processes(rank, count, init_device_mesh(device.type, (count,)), device)
