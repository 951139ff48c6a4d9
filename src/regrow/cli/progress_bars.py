"""Progress bars on a terminal, and lines at intervals in a log file.

Nothing stands still: on a terminal a sign turns, and a log gets a line at intervals also while
nothing is reported, which says for how long the same has been done.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from regrow.cli.output import ERR, print_message
from regrow.common.progress import QUIET, Progress, Update, telling_parts

if TYPE_CHECKING:
    from rich.progress import Progress as Bar
    from rich.progress import ProgressColumn

_LINE_EVERY = 20.0
"""Seconds between two lines of progress if there is no terminal."""
_LONG = 10.0
"""Seconds after which it is said for how long the same has been done."""
_SURE = 2.0
"""Seconds after which the speed of a loop says how long the rest of it takes."""


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun started; it alone prints."""
    return os.environ.get("RANK", "0") == "0"


@dataclass
class Shown:
    """What is being done, in words that change with the time.

    Attributes:
        now: The time in seconds.
        update: The last state of a run.
        part: The last report of a loop (`regrow.common.progress.told`).
    """

    now: Callable[[], float] = time.monotonic
    update: Update | None = None
    part: tuple[str, int, int] | None = None
    _since: float = field(default=0.0, init=False)
    _part_since: float = field(default=0.0, init=False)

    _updated: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._since = self.now()

    def take_update(self, update: Update) -> None:
        """Take the state of a run."""
        before, self.update, self._updated = self.update, update, self.now()
        if before is None or (before.stage, before.doing) != (update.stage, update.doing):
            self._since, self.part = self.now(), None

    def take_part(self, doing: str, done: int, total: int) -> None:
        """Take a report of a loop."""
        now = self.now()
        if self.part is None or self.part[0] != doing or done == 0:
            self._part_since = now
        self._since = now
        self.part = None if done >= total else (doing, done, total)

    @property
    def share(self) -> float:
        """The fraction that is done, of the run or else of the loop."""
        if self.update is not None:
            return self.update.share
        return 0.0 if self.part is None else self.part[1] / self.part[2]

    def words(self) -> str:
        """What is being done, how fast, and how long it takes."""
        update, now = self.update, self.now()
        words = "starting" if update is None else update.doing
        for_this = None
        if self.part is not None:
            doing, done, total = self.part
            # A single batch has no number, so it is not named.
            alone = doing.rpartition(", ")[0] or doing
            words = alone if total == 1 else f"{doing} {done + 1:,} of {total:,}"
            spent = now - self._part_since
            if done and spent >= _SURE:
                for_this = spent / done * (total - done)
        elif update is not None:
            words = ", ".join([words, *_training_words(update)])
        if now - self._since >= _LONG:
            words += f", for {duration(now - self._since)}"
        left = self._left(now)
        if left is not None:
            return f"{duration(left)} left, {words}"
        return words if for_this is None else f"{words}, {duration(for_this)} for this"

    def _left(self, now: float) -> float | None:
        """The seconds left of a run, which go on falling until they were too few."""
        if self.update is None or self.update.seconds_left is None:
            return None
        left = self.update.seconds_left - (now - self._updated)
        return left if left >= 0.5 else None

    def line(self) -> str:
        """The same as a line of a log."""
        if self.update is None:
            return self.words()
        return f"{self.update.stage}: {self.update.share:.0%}, {self.words()}"


def _training_words(update: Update) -> Iterator[str]:
    """The most important first, since a narrow terminal cuts the end off."""
    if update.heldout:
        yield f"held out {update.heldout}"
    if update.loss is not None:
        yield f"training loss {update.loss:.2f}"
    if update.tokens_per_second is not None:
        yield f"{update.tokens_per_second:,.0f} tokens/s"


def byte_progress(what: str) -> AbstractContextManager[Progress]:
    """Context manager: a progress bar for bytes, which appears with the first bytes."""
    from rich import progress as bars

    return _bar(what, bars.DownloadColumn(), bars.TransferSpeedColumn())


def token_progress(what: str) -> AbstractContextManager[Progress]:
    """Context manager: a progress bar for tokens, which appears with the first tokens."""
    from rich import progress as bars

    return _bar(what, bars.TextColumn("{task.completed:,} of {task.total:,} tokens"))


def sentence_progress(what: str) -> AbstractContextManager[Progress]:
    """Context manager: a progress bar for sentences, which appears with the first sentences."""
    from rich import progress as bars

    return _bar(what, bars.TextColumn("{task.completed:,} of {task.total:,} sentences"))


@contextmanager
def _bar(what: str, *columns: "ProgressColumn") -> Iterator[Progress]:
    """A progress bar with these columns before the time that is left."""
    from rich import progress as bars

    bar = bars.Progress(
        bars.TextColumn(what), bars.BarColumn(), *columns, bars.TimeRemainingColumn(), console=ERR,
        transient=True, disable=not ERR.is_terminal,
    )  # fmt: skip
    task = None
    with showing_parts() as hide_parts:

        def advance(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                hide_parts()
                bar.start()
                task = bar.add_task(what, total=total)
            bar.update(task, completed=done)

        try:
            yield Progress(say=print_message, advance=advance)
        finally:
            bar.stop()


@contextmanager
def showing_parts() -> Iterator[Callable[[], None]]:
    """Context manager: a line for each loop that takes long; the function removes it."""
    shown, bar, printed = Shown(), None, time.monotonic()

    def hide() -> None:
        nonlocal bar
        if bar is not None:
            bar.stop()
        bar = None

    def take(doing: str, done: int, total: int) -> None:
        nonlocal bar, printed
        shown.take_part(doing, done, total)
        if shown.part is None:
            hide()
        elif not ERR.is_terminal:
            if time.monotonic() - printed >= _LINE_EVERY:
                printed = time.monotonic()
                ERR.print(shown.line(), soft_wrap=True, style="dim")
        elif bar is None:
            bar = _line_bar(shown, with_stage=False)
            bar.start()
        if bar is not None:
            bar.update(bar.task_ids[0], completed=shown.share)

    try:
        with telling_parts(take if is_first_process() else _ignore):
            yield hide
    finally:
        hide()


@contextmanager
def run_progress() -> Iterator[Progress]:
    """Context manager: one line with the state of a run and its time left, below the messages.

    With several processes, only the first prints.
    """
    if not is_first_process():
        yield QUIET
        return
    shown = Shown()
    bar = _line_bar(shown, with_stage=True)

    def show(update: Update) -> None:
        shown.take_update(update)
        bar.update(bar.task_ids[0], completed=update.share, stage=update.stage)

    def print_above_bar(text: str) -> None:
        ERR.say(text)  # which draws the bar too

    with bar, _lines(shown), telling_parts(shown.take_part):
        yield Progress(say=print_above_bar, update=show)


def _line_bar(shown: Shown, *, with_stage: bool) -> "Bar":
    """A bar of one line with the words of `shown`, which are written anew all the time."""
    from rich import progress as bars
    from rich.text import Text

    class Words(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(shown.words(), overflow="ellipsis", no_wrap=True)

    stage = [bars.TextColumn("{task.fields[stage]}")] if with_stage else []
    bar = bars.Progress(
        bars.SpinnerColumn(), *stage, bars.BarColumn(bar_width=12),
        bars.TextColumn("{task.percentage:>3.0f}%"), Words(),
        console=ERR, transient=True, disable=not ERR.is_terminal,
    )  # fmt: skip
    bar.add_task("", total=1.0, stage="")
    return bar


@contextmanager
def _lines(shown: Shown) -> Iterator[None]:
    """Context manager: a line at intervals, where there is no terminal."""
    if ERR.is_terminal:
        yield
        return
    ended = threading.Event()

    def print_lines() -> None:
        while not ended.wait(_LINE_EVERY):
            ERR.print(shown.line(), soft_wrap=True)

    thread = threading.Thread(target=print_lines, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def duration(seconds: float) -> str:
    """Seconds as on a clock: `4:27`, `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _ignore(*_: object) -> None:
    pass
