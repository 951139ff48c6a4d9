"""Progress bars on a terminal, and lines at intervals in a log file."""

import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from regrow.cli.output import ERR, print_message
from regrow.common.progress import QUIET, Progress, Update

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

_LINE_EVERY = 30.0
"""Seconds between two lines of progress if there is no terminal."""


def is_first_process() -> bool:
    """Whether this is the first of the processes that torchrun started; it alone prints."""
    return os.environ.get("RANK", "0") == "0"


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

    def advance(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(what, total=total)
        bar.update(task, completed=done)

    try:
        yield Progress(say=print_message, advance=advance)
    finally:
        bar.stop()


@contextmanager
def run_progress() -> Iterator[Progress]:
    """Context manager: one line with the state of a run and its time left, below the messages.

    With several processes, only the first prints.
    """
    if not is_first_process():
        yield QUIET
        return
    from rich import progress as bars

    bar = bars.Progress(
        bars.TextColumn("{task.fields[stage]}"), bars.BarColumn(bar_width=16),
        bars.TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}  {task.description}"),
        console=ERR, transient=True, disable=not ERR.is_terminal,
    )  # fmt: skip
    task = bar.add_task("starting", total=1.0, stage="", left="")

    printed = time.monotonic()

    def show(update: Update) -> None:
        nonlocal printed
        doing = update.doing
        if update.loss is not None:
            doing += f", loss {update.loss:.3f}"
        if update.tokens_per_second is not None:
            doing += f", {update.tokens_per_second:,.0f} tokens/s"
        bar.update(
            task, completed=update.share, description=doing, stage=update.stage,
            left=f"{_duration(update.seconds_left)} left",
        )  # fmt: skip
        # A log file has no bar, so it gets a line at intervals.
        if not ERR.is_terminal and time.monotonic() - printed >= _LINE_EVERY:
            printed = time.monotonic()
            left = _duration(update.seconds_left)
            ERR.print(f"{update.stage}: {update.share:.0%}, {left} left, {doing}")

    def print_above_bar(text: str) -> None:
        bar.console.print(text, soft_wrap=True)

    with bar:
        yield Progress(say=print_above_bar, update=show)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
