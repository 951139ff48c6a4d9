"""Find the process that stalls, among several.

When one process stalls, all others wait for it inside a collective operation. The library only
reports, after its own timeout, that some process did not come. Here each process reports its
progress to a store, from a separate thread: a count that grows while the process lives, and what
the process does. The first and the last process check all reports, so each process is checked by
another one.

A process whose count does not grow has stalled. A process whose count grows has also stalled if it
stays in its part of a step while others wait further on. If all processes stand at the same place,
none has stalled, however long it takes. Neither has a process that measures, saves or reports,
since one process may do that alone.

The store is in torchrun's process, or without torchrun in the first process. In the second case a
first process that is stopped entirely is not reported.
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

Activity = Literal["reading samples", "computing", "updating", "measuring", "saving", "reporting"]
"""What a process does in a step."""
_SHARED_ACTIVITIES = ("reading samples", "computing", "updating")
"""Activities in which all processes have a similar amount of work."""
_MIN_CHECKS, _MAX_PAUSE = 10, 5.0
"""Fewest checks before a process counts as stalled; most seconds between two checks."""
_FINISHED = b"left"

SetProgress = Callable[[int, Activity], None]
"""A process calls this with its step, counted from 1, and the activity that begins."""


class SharedStore(Protocol):
    """A `torch.distributed` store."""

    def set(self, key: str, value: str) -> None: ...

    def get(self, key: str) -> bytes: ...

    def check(self, keys: list[str]) -> bool: ...


@dataclass(frozen=True)
class Progress:
    """How far a process is.

    Attributes:
        changes: How many progress reports came before this one. All processes make the same
            reports in the same order.
    """

    changes: int
    step: int
    activity: str

    def words(self) -> str:
        return f"step {self.step}, {self.activity}"


@dataclass
class StallDetector:
    """Finds a stalled process from the reports of all processes, one check after another.

    It counts checks and not seconds, so that time in which its own process was stopped does not
    count.

    Attributes:
        checks: How many checks in a row a process may stand still.
    """

    checks: int
    _silent: dict[int, tuple[int, int]] = field(default_factory=dict)
    _behind: dict[int, tuple[Progress | None, int]] = field(default_factory=dict)

    def find_stalled(self, reports: Mapping[int, tuple[int, Progress]]) -> tuple[int, str] | None:
        """Rank of a stalled process and a description; None if no process has stalled.

        `reports`: by rank, the count of the process and its progress.
        """
        foremost = max((at for _, at in reports.values()), key=lambda at: at.changes)
        for rank, (count, at) in reports.items():
            last_count, checks = self._silent.get(rank, (None, 0))
            self._silent[rank] = (count, checks + 1 if last_count == count else 0)
            last_behind, checks = self._behind.get(rank, (None, 0))
            is_behind = at.changes < foremost.changes and at.activity in _SHARED_ACTIVITIES
            behind = at if is_behind else None
            self._behind[rank] = (
                behind, checks + 1 if behind is not None and last_behind == behind else 0,
            )  # fmt: skip
        for rank, (_, at) in reports.items():
            if self._silent[rank][1] >= self.checks:
                return rank, f"has not answered since {at.words()}"
        for rank, (_, at) in reports.items():
            if self._behind[rank][1] >= self.checks:
                return rank, f"has not moved from {at.words()}; others are at {foremost.words()}"
        return None


def _exit(message: str) -> None:
    """End this process at once, since its main thread waits; torchrun ends or restarts all."""
    _log.error("%s", message)
    logging.shutdown()
    os._exit(1)


@contextmanager
def watch_for_stalls(
    rank: int,
    count: int,
    store: SharedStore | None,
    seconds: float | None,
    on_stall: Callable[[str], None] = _exit,
) -> Iterator[SetProgress]:
    """Context manager: if a process stalls, the others name it and end.

    `store`: shared by the processes that are inside the context together. `seconds`: how long a
    process may stand still; None watches no process. A single process is not watched either.
    """
    if store is None or count == 1 or seconds is None:
        yield lambda _step, _activity: None
        return
    own = Progress(0, 0, "reading samples")
    ended = threading.Event()

    def set_progress(step: int, activity: Activity) -> None:
        nonlocal own
        own = Progress(own.changes + 1, step, activity)

    def report_and_check() -> None:
        checks = max(_MIN_CHECKS, math.ceil(seconds / _MAX_PAUSE))
        detector, beats = StallDetector(checks), 0
        while True:  # the first report comes at once: a process may stall before the first pause
            beats += 1
            at = own
            reports = {rank: (beats, at)}
            try:
                store.set(f"{rank}", f"{beats} {at.changes} {at.step} {at.activity}")
                for other in range(count) if rank in (0, count - 1) else ():
                    if other != rank and store.check([f"{other}"]):
                        report = store.get(f"{other}")
                        if report != _FINISHED:
                            reports[other] = _parse(report.decode())
            except DistError:
                # The process with the store is gone; the other processes get an error as well.
                return
            found = detector.find_stalled(reports)
            if found is not None and not ended.is_set():
                stalled, what = found
                on_stall(f"training: for {seconds:,g} s process {stalled} {what}")
                return
            if ended.wait(seconds / checks):
                return

    thread = threading.Thread(target=report_and_check, name="stalls", daemon=True)
    thread.start()
    try:
        yield set_progress
    finally:
        ended.set()
        thread.join()
        with suppress(DistError):
            store.set(f"{rank}", _FINISHED.decode())


def _parse(report: str) -> tuple[int, Progress]:
    beats, changes, step, activity = report.split(" ", 3)
    return int(beats), Progress(int(changes), int(step), activity)
