"""Bars on the terminal for what takes long; lines now and then where there is none."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from regrow.cli.output import ERR, say
from regrow.common.progress import QUIET, Progress, Update

_TOLD_EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def speaks() -> bool:
    """Whether this process is the one, of those that torchrun starts, that prints."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def copying(what: str) -> Iterator[Progress]:
    """A progress bar for bytes, shown once there is something to show."""
    from rich import progress as bars

    bar = bars.Progress(
        bars.TextColumn(what), bars.BarColumn(), bars.DownloadColumn(),
        bars.TransferSpeedColumn(), bars.TimeRemainingColumn(), console=ERR, transient=True,
        disable=not ERR.is_terminal,
    )  # fmt: skip
    task = None

    def advance(done: int, total: int) -> None:
        nonlocal task
        if task is None:
            bar.start()
            task = bar.add_task(what, total=total)
        bar.update(task, completed=done)

    try:
        yield Progress(say=say, advance=advance)
    finally:
        bar.stop()


@contextmanager
def watching() -> Iterator[Progress]:
    """One line that says where a run is and how long it still takes; results above it.

    Of several processes the first alone says anything.
    """
    if not speaks():
        yield QUIET
        return
    from rich import progress as bars

    bar = bars.Progress(
        bars.TextColumn("{task.fields[stage]}"), bars.BarColumn(bar_width=16),
        bars.TextColumn("{task.percentage:>3.0f}%  {task.fields[left]}  {task.description}"),
        console=ERR, transient=True, disable=not ERR.is_terminal,
    )  # fmt: skip
    task = bar.add_task("starting", total=1.0, stage="", left="")

    told = time.monotonic()

    def watch(update: Update) -> None:
        nonlocal told
        doing = update.doing
        if update.loss is not None:
            doing += f", loss {update.loss:.3f}"
        if update.tokens_per_second is not None:
            doing += f", {update.tokens_per_second:,.0f} tokens/s"
        bar.update(
            task, completed=update.share, description=doing, stage=update.stage,
            left=f"{_duration(update.seconds_left)} left",
        )  # fmt: skip
        # A log file has no bar, so it gets a line now and then.
        if not ERR.is_terminal and time.monotonic() - told >= _TOLD_EVERY:
            told = time.monotonic()
            left = _duration(update.seconds_left)
            ERR.print(f"{update.stage}: {update.share:.0%}, {left} left, {doing}", markup=False)

    def say_above(text: str) -> None:
        bar.console.print(text, markup=False, soft_wrap=True)

    with bar:
        yield Progress(say=say_above, update=watch)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
