"""Stop a training at SIGTERM (from a scheduler) or SIGINT (from the keyboard)."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

StopSignal = Callable[[], int]
"""Gives the number of the signal that was received, or 0."""


@contextmanager
def catch_stop_signals() -> Iterator[StopSignal]:
    """Context manager: SIGTERM and a first SIGINT interrupt nothing; the function reports them.

    One that came after the function was last asked ends the process when the work is done. A
    second SIGINT interrupts as usual. Python handles signals only in the main thread; in another
    thread the function always gives 0.
    """
    received = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: received
        return

    def record(number: int, _: FrameType | None) -> None:
        nonlocal received
        received = number
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    # All of it before the first handler is set, which may be called at once.
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, record)
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if received:
        exit_by_signal(received)


def exit_by_signal(number: int) -> NoReturn:
    """Raise the exception of a signal, so that contexts are closed; exit code 130 or 143."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
