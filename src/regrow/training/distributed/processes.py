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

_T = TypeVar("_T")

_LOOK_FIRST, _LOOK_LAST = 0.002, 0.5
"""Seconds between two looks of one that waits, which grow while it does."""


@dataclass(frozen=True)
class _Outcome:
    """What came of the first process's work: a value, or the text of its UserError."""

    value: Any
    error: str | None = None


def _taken(outcome: _Outcome) -> Any:
    if outcome.error is not None:
        raise ReportedError(outcome.error)
    return outcome.value


@dataclass
class Speech:
    """What the first process says to all others, one thing after another, through a store.

    A collective operation gives up after minutes; who waits here waits as long as it takes. What
    all have heard is taken out of the store.
    """

    store: Store
    rank: int
    count: int
    _number: int = 0

    def say(self, what: object) -> None:
        """Of the first alone. `what` goes by pickle, from process to process of one job."""
        self._number += 1
        self.store.set(f"{self._number}", pickle.dumps(what))  # type: ignore[arg-type]

    def hear(self) -> Any:
        """Of each other, as often as the first speaks."""
        self._number += 1
        key = f"{self._number}"
        heard = pickle.loads(self._wait(key))  # noqa: S301
        if self.store.add(f"{key}/heard", 1) == self.count - 1:
            self.store.delete_key(key)
            self.store.delete_key(f"{key}/heard")
        return heard

    def of_all(self, own: str | None) -> list[str | None]:
        """What each has to say, by rank, the same in all."""
        if self.rank:
            self.store.set(f"{self._number + 1}/{self.rank}", own or "")
            theirs: list[str | None] = _taken(self.hear())
            return theirs
        found = [own]
        for rank in range(1, self.count):
            key = f"{self._number + 1}/{rank}"
            found.append(self._wait(key).decode() or None)
            self.store.delete_key(key)
        self.say(_Outcome(found))
        return found

    def _wait(self, key: str) -> bytes:
        # The store's own wait has a limit, and logs each time that it is reached.
        pause = _LOOK_FIRST
        while not self.store.check([key]):
            time.sleep(pause)
            pause = min(1.5 * pause, _LOOK_LAST)
        found: bytes = self.store.get(key)
        return found


@cache
def _speech(_: distributed.ProcessGroup, rank: int, count: int) -> Speech:
    """Of those who met as this group; they all count what was said alike."""
    return Speech(PrefixStore("regrow", _get_default_store()), rank, count)


@dataclass(frozen=True)
class Processes:
    """This process among those that train.

    Attributes:
        rank: 0 for the one that writes and speaks.
        count: Of all.
        mesh: All of them along one dimension; None where there is but one.
        device: That this one trains on; None where that is the model's own to say.
        speech: Of the first to the others; None where there is but one.
    """

    rank: int = 0
    count: int = 1
    mesh: DeviceMesh | None = None
    device: torch.device | None = None
    speech: Speech | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def board(self, name: str) -> Store | None:
        """Where each can tell all others something; None where there is but one."""
        return None if self.speech is None else PrefixStore(name, self.speech.store)

    @property
    def trains_on(self) -> torch.device:
        """The device where this one should have its model; alone, a GPU where there is one."""
        if self.device is not None:
            return self.device
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")

    def total(self, values: list[float]) -> list[float]:
        """The sums over all processes, in float64, the same in each."""
        if self.count == 1:
            return values
        found = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(found)
        return [float(value) for value in found.tolist()]

    def in_first(self, work: Callable[[], _T]) -> _T:
        """Do it in the first process alone; what it returns, or its UserError, in all.

        The others wait as long as it takes.
        """
        if self.speech is None:
            return work()
        if self.first:
            return self._tell(self.speech, work)
        theirs: _T = _taken(self.speech.hear())
        return theirs

    def in_all(self, work: Callable[[], _T]) -> _T:
        """Do it in every process; where one cannot, all raise what it said."""
        if self.speech is None:
            return work()
        said: str | None = None
        try:
            done = work()
        except UserError as error:
            said = str(error)
        everyone = self.speech.of_all(said)
        for rank, theirs in enumerate(everyone):
            if theirs is not None:
                where = "" if everyone[0] is not None else f"process {rank}: "
                raise self.error(f"{where}{theirs}")
        return done

    def lead(self, work: Callable[[], _T]) -> _T:
        """Do it in the first process, and in the others what that calls them to (`call`).

        What it returns, or its UserError, in all.
        """
        if self.speech is None:
            return work()
        if self.first:
            return self._tell(self.speech, work)
        while not isinstance(heard := self.speech.hear(), _Outcome):
            heard()
        theirs: _T = _taken(heard)
        return theirs

    def call(self, work: Callable[[], object]) -> None:
        """Inside what the first leads: the others do this now, beside what it does itself.

        `work`: by pickle; a `functools.partial` of a function with its arguments, say.
        """
        if self.speech is not None:
            self.speech.say(work)

    def _tell(self, speech: Speech, work: Callable[[], _T]) -> _T:
        try:
            done = work()
        except UserError as error:
            speech.say(_Outcome(None, str(error)))
            raise
        speech.say(_Outcome(done))
        return done

    def error(self, text: str) -> UserError:
        """What to raise where all processes raise the same."""
        return UserError(text) if self.first else ReportedError(text)


_TO_MEET = datetime.timedelta(minutes=10)
_TO_COME = datetime.timedelta(minutes=30)
"""After which a collective operation gives up: Gloo's own, where NCCL has 10."""
_LOOK_AGAIN = 0.05
"""Seconds."""


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
        if store.check([f"{name}/all"]) and own in store.get(f"{name}/all").decode().split():
            return name
        time.sleep(_LOOK_AGAIN)


def join_processes() -> Processes:
    """Those that torchrun started, one a GPU where there are GPUs; without torchrun, this one."""
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Processes()
        store, rank, count = next(rendezvous("env://", timeout=_TO_MEET))
        store = PrefixStore(meet(store, rank, count), store)
        distributed.init_process_group(store=store, rank=rank, world_size=count, timeout=_TO_COME)
    rank, count = distributed.get_rank(), distributed.get_world_size()
    if count == 1:
        return Processes()
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    speech = _speech(distributed.group.WORLD, rank, count)
    return Processes(rank, count, init_device_mesh(device.type, (count,)), device, speech)
