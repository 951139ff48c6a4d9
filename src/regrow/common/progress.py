"""How a long call reports its progress."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Update:
    """How far a run or a training is.

    Attributes:
        stage: The stage of the recipe, `original`, or `result`.
        doing: What is being done, in a few words.
        share: The fraction of the estimated time that has passed, from 0 to 1.
        seconds_left: The estimated seconds until the run ends; None before the speed of this
            machine at the work that is left was measured.
        loss: The loss of the last training step, in nats per predicted token.
        tokens_per_second: The speed of the last training step.
        heldout: The last held-out loss during a training, with its unit, in words.
    """

    stage: str
    doing: str
    share: float
    seconds_left: float | None
    loss: float | None = None
    tokens_per_second: float | None = None
    heldout: str = ""


def _ignore(*_: object) -> None:
    pass


@dataclass(frozen=True)
class Progress:
    """Functions that a long call reports to; by default they do nothing.

    Attributes:
        say: Takes a message, one line.
        advance: Takes the bytes or tokens processed so far, and all of them.
        update: Takes the state of a run or a training.
    """

    say: Callable[[str], None] = _ignore
    advance: Callable[[int, int], None] = _ignore
    update: Callable[[Update], None] = _ignore

    def __repr__(self) -> str:
        """In the signatures that `help` shows, functions that do nothing would be long."""
        given = {name: each for name, each in vars(self).items() if each is not _ignore}
        shown = ", ".join(f"{name}={each!r}" for name, each in given.items())
        return f"Progress({shown})" if given else "QUIET"


QUIET = Progress()
"""Reports nothing."""

TellPart = Callable[[str, int, int], None]
"""Takes what a loop does (`refitting, layer`), how many of its items are done, and all of them."""

_tell_part: ContextVar[TellPart] = ContextVar("_tell_part", default=_ignore)


@contextmanager
def telling_parts(tell: TellPart) -> Iterator[None]:
    """Context manager: the loops of this thread report to `tell` how far they are.

    They lie deep inside scores, refits and measurements. So the function is not passed through all
    their callers.
    """
    token = _tell_part.set(tell)
    try:
        yield
    finally:
        _tell_part.reset(token)


def tell_part(doing: str, done: int, total: int) -> None:
    """Report how far a loop is (`telling_parts`)."""
    _tell_part.get()(doing, done, total)


@contextmanager
def as_part(doing: str) -> Iterator[None]:
    """Context manager: tells that something is being done which has no parts of its own."""
    tell_part(doing, 0, 1)
    yield
    tell_part(doing, 1, 1)


def told(items: Sequence[T], doing: str) -> Iterator[T]:
    """The items; before each, and at the end, it is told how many are done (`telling_parts`)."""
    for done, item in enumerate(items):
        tell_part(doing, done, len(items))
        yield item
    tell_part(doing, len(items), len(items))
