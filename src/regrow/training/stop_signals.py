"""A request to stop, as a scheduler or a keyboard makes it."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

Asked = Callable[[], int]
"""The signal that asked to stop, or 0."""


@contextmanager
def stop_requests() -> Iterator[Asked]:
    """Inside, SIGTERM and a first SIGINT interrupt nothing; the function given tells of them.

    A second SIGINT interrupts as ever. In a thread that is not the main one signals are not ours,
    and the function tells of none.
    """
    asked = 0
    if threading.current_thread() is not threading.main_thread():
        yield lambda: asked
        return

    def note(number: int, _: FrameType | None) -> None:
        nonlocal asked
        asked = number
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def leave(number: int) -> NoReturn:
    """End as the signal wants, after all that stands open was closed: 130 or 143 for a shell."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
