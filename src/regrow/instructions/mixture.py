"""Which samples are taken, by rates and caps.

Each sample has a draw, 64 bits that its content and the seed decide. Where fewer are wanted than
there are, those with the least draws are taken. So what is taken does not depend on the order of
the files, and a larger cap takes the same samples and more.
"""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from regrow.instructions.config import Instructions
from regrow.instructions.tasks import TASKS

TASK_NAMES = tuple(TASKS)
Mask = NDArray[np.bool_]


@dataclass
class Index:
    """Some bytes about each sample, in the order in which samples are read.

    Attributes:
        draws: Of each sample.
        sources: Its source, by number.
        tasks: Its task, by number.
        heldout: Whether it is held out.
        dropped: Whether it is out already.
    """

    draws: "array[int]" = field(default_factory=lambda: array("Q"))
    sources: "array[int]" = field(default_factory=lambda: array("H"))
    tasks: "array[int]" = field(default_factory=lambda: array("B"))
    heldout: "array[int]" = field(default_factory=lambda: array("B"))
    dropped: "array[int]" = field(default_factory=lambda: array("B"))

    def __len__(self) -> int:
        return len(self.draws)

    def add(self, draw: int, source: int, task: str, *, heldout: bool, dropped: bool) -> None:
        """Add the next sample."""
        self.draws.append(draw)
        self.sources.append(source)
        self.tasks.append(TASK_NAMES.index(task))
        self.heldout.append(heldout)
        self.dropped.append(dropped)


@dataclass(frozen=True)
class Choice:
    """What is taken.

    Attributes:
        taken: Whether each sample is.
        wanted: The samples of each source that the rates ask for; empty without rates.
    """

    taken: Mask
    wanted: tuple[int, ...] = ()


class Chooser:
    """Chooses by the rates and caps of a configuration."""

    def __init__(self, index: Index, spec: Instructions) -> None:
        self._draws = np.frombuffer(index.draws, dtype=np.uint64)
        self._sources = np.frombuffer(index.sources, dtype=np.uint16)
        self._tasks = np.frombuffer(index.tasks, dtype=np.uint8)
        # Samples of equal draws are duplicates, of which the first alone is not dropped.
        self._order = np.argsort(self._draws, kind="stable")
        self._spec = spec

    def duplicates(self, dropped: Mask) -> Mask:
        """Samples that say the same as one before that is not dropped."""
        found = np.zeros(len(self._draws), dtype=bool)
        order = self._order[~dropped[self._order]]
        found[order[1:]] = self._draws[order[1:]] == self._draws[order[:-1]]
        return found

    def choose(self, available: Mask, spare: float = 0.0) -> Choice:
        """Take some of the samples that are available; `spare`: and this share more."""

        def with_spare(count: int) -> int:
            return count + int(count * spare)

        spec = self._spec
        order = self._order[available[self._order]]
        for task, cap in spec.task_caps.items():
            order = _capped(order, self._tasks[order] == TASK_NAMES.index(task), with_spare(cap))
        for number, source in enumerate(spec.sources):
            if source.cap is not None:
                order = _capped(order, self._sources[order] == number, with_spare(source.cap))
        wanted: tuple[int, ...] = ()
        if spec.sources[0].rate is not None:
            wanted = self._wanted(order)
            for number, count in enumerate(wanted):
                order = _capped(order, self._sources[order] == number, with_spare(count))
        elif spec.rows is not None:
            order = order[: with_spare(spec.rows)]
        taken = np.zeros(len(self._draws), dtype=bool)
        taken[order] = True
        return Choice(taken, wanted)

    def _wanted(self, order: NDArray[np.int64]) -> tuple[int, ...]:
        """The samples of each source: of all rows, or as many as keep the rates exact."""
        rates = np.array([source.rate for source in self._spec.sources], dtype=np.float64)
        shares = rates / rates.sum()
        rows = self._spec.rows
        if rows is None:
            counts = np.bincount(self._sources[order], minlength=len(shares))
            rows = int((counts / shares).min() + 1e-6)
        return whole_shares(rows, shares.tolist())


def whole_shares(total: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Whole numbers that add up to a total, as near to the shares as can be."""
    exact = [total * share for share in shares]
    found = [int(each) for each in exact]
    rest = sorted(range(len(shares)), key=lambda n: (found[n] - exact[n], n))
    for number in rest[: total - sum(found)]:
        found[number] += 1
    return tuple(found)


def _capped(order: NDArray[np.int64], concerned: Mask, cap: int) -> NDArray[np.int64]:
    """The order with at most `cap` of those concerned."""
    kept = ~concerned | (np.cumsum(concerned) <= cap)
    return order[kept]


def shortages(spec: Instructions, choice: Choice, counts: Mapping[str, int]) -> list[str]:
    """What the rates ask for and the sources do not have, a line each."""
    return [
        f"{source.title}: {counts.get(source.title, 0):,} of the {wanted:,} that its rate asks for"
        for source, wanted in zip(spec.sources, choice.wanted, strict=False)
        if counts.get(source.title, 0) < wanted
    ]
