"""Which of several processes no longer moves.

When one stalls, all others wait for it inside a collective operation, and the library only says,
after a time of its own, that somebody did not come. So each process tells in a store where it
stands, from a thread of its own: a count that grows while the process lives, and what it is doing.
The first and the last look at what all tell, so that each is looked at by another.

One that no longer counts has stalled. So has one that counts, and stays in its part of a step while
others wait further on. Where all stand at one place nobody has, however long it takes; nor has one
that measures, saves or reports, which one process may do alone.

The store lies with torchrun, or without it in the first process: there a first process that is
stopped whole is not told of.
"""

import logging
import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch.distributed import DistError

_log = logging.getLogger(__name__)

Doing = Literal["reading samples", "computing", "updating", "measuring", "saving", "reporting"]
"""What a process does in a step."""
_TOGETHER = ("reading samples", "computing", "updating")
"""Where all have like work."""
_LOOKS, _PAUSE = 10, 5.0
"""At least so many looks before a process has stalled, and at most so many seconds between two."""
_LEFT = b"left"

Mark = Callable[[int, Doing], None]
"""What a process calls with its step, counted from 1, and what it does from then on."""


class Board(Protocol):
    """A `torch.distributed` store."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Place:
    """Where a process stands.

    `marks`: how many came before; all processes make the same ones.
    """

    marks: int
    step: int
    doing: str

    def words(self) -> str:
        return f"step {self.step}, {self.doing}"


@dataclass
class Judge:
    """Says who has stalled, from what each process tells, one look after another.

    It counts looks and no seconds: those in which the judge itself was stopped are none.

    `looks`: for which one may stand still.
    """

    looks: int
    _silent: dict[int, tuple[int, int]] = field(default_factory=dict)
    _behind: dict[int, tuple[Place | None, int]] = field(default_factory=dict)

    def stalled(self, told: Mapping[int, tuple[int, Place]]) -> tuple[int, str] | None:
        """Rank and words; None where all move, or wait for each other.

        `told`: by rank, the count and the place.
        """
        first = max((place for _, place in told.values()), key=lambda place: place.marks)
        for rank, (count, place) in told.items():
            before, looks = self._silent.get(rank, (None, 0))
            self._silent[rank] = (count, looks + 1 if before == count else 0)
            stood, looks = self._behind.get(rank, (None, 0))
            is_behind = place.marks < first.marks and place.doing in _TOGETHER
            at = place if is_behind else None
            self._behind[rank] = (at, looks + 1 if at is not None and stood == at else 0)
        for rank, (_, place) in told.items():
            if self._silent[rank][1] >= self.looks:
                return rank, f"has not answered since {place.words()}"
        for rank, (_, place) in told.items():
            if self._behind[rank][1] >= self.looks:
                return rank, f"has not moved from {place.words()}; others are at {first.words()}"
        return None


def _leave(said: str) -> None:
    """End this process at once, since its main thread waits; torchrun ends or restarts all."""
    _log.error("%s", said)
    logging.shutdown()
    os._exit(1)


@contextmanager
def watched(
    rank: int,
    count: int,
    board: Board | None,
    seconds: float | None,
    on_stall: Callable[[str], None] = _leave,
) -> Iterator[Mark]:
    """Inside, a process that stalls is named, by the others, and they end.

    `board`: of the processes that are inside together. `seconds`: for which one may stand still;
    None, as where there is but one, watches nobody.
    """
    if board is None or count == 1 or seconds is None:
        yield lambda _step, _doing: None
        return
    here = Place(0, 0, "reading samples")
    ended = threading.Event()

    def mark(step: int, doing: Doing) -> None:
        nonlocal here
        here = Place(here.marks + 1, step, doing)

    def tell_and_look() -> None:
        looks = max(_LOOKS, math.ceil(seconds / _PAUSE))
        judge, beats = Judge(looks), 0
        while not ended.wait(seconds / looks):
            beats += 1
            place = here
            told = {rank: (beats, place)}
            try:
                board.set(f"{rank}", f"{beats} {place.marks} {place.step} {place.doing}")
                for other in range(count) if rank in (0, count - 1) else ():
                    if other != rank and board.check([f"{other}"]):
                        theirs = board.get(f"{other}")
                        if theirs != _LEFT:
                            told[other] = _read(theirs.decode())
            except DistError:
                # Whoever had the store is gone, and the others will be told so.
                return
            found = judge.stalled(told)
            if found is not None and not ended.is_set():
                who, what = found
                on_stall(f"training: for {seconds:,g} s process {who} {what}")
                return

    thread = threading.Thread(target=tell_and_look, name="stalls", daemon=True)
    thread.start()
    try:
        yield mark
    finally:
        ended.set()
        thread.join()
        with suppress(DistError):
            board.set(f"{rank}", _LEFT.decode())


def _read(told: str) -> tuple[int, Place]:
    beats, marks, step, doing = told.split(" ", 3)
    return int(beats), Place(int(marks), int(step), doing)
