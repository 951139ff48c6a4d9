"""The processes that train one model together, as torchrun starts them."""

import datetime
import os
import pickle
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import torch
from torch import distributed
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store
from torch.distributed.rendezvous import rendezvous

from regrow.common.errors import ReportedError, UserError
from regrow.common.precision import available_device

_T = TypeVar("_T")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.5
"""Seconds between two polls of the store; the pause grows while a process waits."""


@dataclass(frozen=True)
class _Outcome:
    """The result of work in the first process: a value, or the text of its UserError."""

    value: Any
    error: str | None = None


def _value_of(outcome: _Outcome) -> Any:
    """The value; raise ReportedError if the work failed: the first process reports the error."""
    if outcome.error is not None:
        raise ReportedError(outcome.error)
    return outcome.value


@dataclass
class StoreChannel:
    """Messages between the first process and all others, in order, through a store.

    A collective operation times out after minutes; here a process waits without a limit. A message
    is deleted from the store when all others have received it.
    """

    store: Store
    rank: int
    count: int
    _number: int = 0

    def send(self, message: object) -> None:
        """Send to all others; only the first process does this.

        The message is pickled, since it stays between the processes of one job.
        """
        self._number += 1
        self.store.set(f"{self._number}", pickle.dumps(message))  # type: ignore[arg-type]

    def receive(self) -> Any:
        """The next message of the first process; every other process receives each message."""
        self._number += 1
        key = f"{self._number}"
        message = pickle.loads(self._wait(key))  # noqa: S301
        if self.store.add(f"{key}/heard", 1) == self.count - 1:
            self.store.delete_key(key)
            self.store.delete_key(f"{key}/heard")
        return message

    def gather(self, own: str | None) -> list[str | None]:
        """The text of each process, by rank; every process calls this and gets the same list."""
        if self.rank:
            self.store.set(f"{self._number + 1}/{self.rank}", own or "")
            gathered: list[str | None] = _value_of(self.receive())
            return gathered
        found = [own]
        for rank in range(1, self.count):
            key = f"{self._number + 1}/{rank}"
            found.append(self._wait(key).decode() or None)
            self.store.delete_key(key)
        self.send(_Outcome(found))
        return found

    def _wait(self, key: str) -> bytes:
        # The store's own wait has a time limit, and logs each time that it is reached.
        pause = _SHORTEST_PAUSE
        while not self.store.check([key]):
            time.sleep(pause)
            pause = min(1.5 * pause, _LONGEST_PAUSE)
        found: bytes = self.store.get(key)
        return found


@cache
def _channel(_: distributed.ProcessGroup, rank: int, count: int) -> StoreChannel:
    """One channel for each process group, so that all processes number messages alike."""
    return StoreChannel(PrefixStore("regrow", _get_default_store()), rank, count)


@dataclass(frozen=True)
class Processes:
    """This process and its place among the processes that train together.

    Attributes:
        rank: 0 for the first process, which writes files and messages.
        count: Number of processes.
        mesh: All processes along one dimension; None if there is only one.
        device: Device that this process trains on; None if the model's device decides.
        channel: Messages from the first process to the others; None if there is only one.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    device: torch.device | None = None
    channel: StoreChannel | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def shared_store(self, name: str) -> Store | None:
        """A store of this name that all processes read and write; None if there is only one."""
        return None if self.channel is None else PrefixStore(name, self.channel.store)

    @property
    def training_device(self) -> torch.device:
        """The device for the model of this process; for a single process, a GPU if there is one."""
        if self.device is not None:
            return self.device
        return available_device()

    def total(self, values: list[float]) -> list[float]:
        """The sum of each value over all processes, in float64, the same in each process."""
        if self.count == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(found)
        return [float(value) for value in found.tolist()]

    def in_first(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the first process only; every process gets its value or its UserError.

        The other processes wait without a time limit.
        """
        if self.channel is None:
            return work()
        if self.first:
            return self._run_and_send(self.channel, work)
        value: _T = _value_of(self.channel.receive())
        return value

    def in_all(self, work: Callable[[], _T]) -> _T:
        """Run `work` in every process; if it raises UserError in one, all processes raise that."""
        if self.channel is None:
            return work()
        failure: str | None = None
        try:
            value = work()
        except UserError as error:
            failure = str(error)
        failures = self.channel.gather(failure)
        for rank, message in enumerate(failures):
            if message is not None:
                where = "" if failures[0] is not None else f"process {rank}: "
                raise self.error(f"{where}{message}")
        return value

    def lead(self, work: Callable[[], _T]) -> _T:
        """Run `work` in the first process; the others run what it sends them with `call`.

        Every process gets the value of `work`, or its UserError.
        """
        if self.channel is None:
            return work()
        if self.first:
            return self._run_and_send(self.channel, work)
        while not isinstance(message := self.channel.receive(), _Outcome):
            message()
        value: _T = _value_of(message)
        return value

    def call(self, work: Callable[[], object]) -> None:
        """Have the other processes run `work` now; the first calls this inside `lead`.

        The first process does not run `work` here. `work` is pickled: give, for example, a
        `functools.partial` of a module's function.
        """
        if self.channel is not None:
            self.channel.send(work)

    def _run_and_send(self, channel: StoreChannel, work: Callable[[], _T]) -> _T:
        try:
            value = work()
        except UserError as error:
            channel.send(_Outcome(None, str(error)))
            raise
        channel.send(_Outcome(value))
        return value

    def error(self, text: str) -> UserError:
        """The error that this process raises when all processes raise the same one."""
        return UserError(text) if self.first else ReportedError(text)


_RENDEZVOUS_TIMEOUT = datetime.timedelta(minutes=10)
_COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Limit of a collective operation: the default of Gloo, while that of NCCL is 10 minutes."""
_POLL_SECONDS = 0.05


def agree_on_group_name(store: Store, rank: int, count: int) -> str:
    """A name for the group of processes that start now; no earlier group had it.

    torchrun 2.13 gives restarted processes the store that they had before. In it they would find
    the addresses of the processes that were killed. torchrun counts the restarts of each node
    apart, so its count cannot name the group. Therefore the first process makes up a name. Each
    other process adds an id of its own to that name, and repeats this until the first process
    confirms the id.
    """
    own, leader = uuid.uuid4().hex, "leader"
    if rank == 0:
        store.set(leader, own)
        members = [store.get(f"{own}/{other}").decode() for other in range(1, count)]
        store.set(f"{own}/all", " ".join(members))
        return own
    while True:
        name: str = store.get(leader).decode()
        store.set(f"{name}/{rank}", own)
        # The name may be that of a first process that was killed.
        if store.check([f"{name}/all"]) and own in store.get(f"{name}/all").decode().split():
            return name
        time.sleep(_POLL_SECONDS)


def _own_gpu() -> int:
    """The number of the GPU of this process. Raises UserError if there are fewer than processes."""
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise UserError(
            f"process {number + 1} of this machine has no GPU, since it has {count:,}; start as "
            'many processes as GPUs, or set CUDA_VISIBLE_DEVICES="" to train on the CPU'
        )
    return number


def join_processes() -> Processes:
    """The processes that torchrun started; without torchrun, this process alone.

    Where there are GPUs, each process has one. Raises UserError if there are fewer.
    """
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        store, rank, count = next(rendezvous("env://", timeout=_RENDEZVOUS_TIMEOUT))
        store = PrefixStore(agree_on_group_name(store, rank, count), store)
        # Parts that are kept on the CPU (`offload`) are summed there.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, store=store, rank=rank, world_size=count, timeout=_COLLECTIVE_TIMEOUT
        )
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return Processes()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", _own_gpu())
        torch.cuda.set_device(device)
    channel = _channel(distributed.group.WORLD, rank, count)
    return Processes(rank, count, init_device_mesh(device.type, (count,)), device, channel)
