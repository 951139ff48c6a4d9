"""How a long call reports its progress."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """How far a run or a training is.

    Attributes:
        stage: The stage of the recipe, `original`, or `result`.
        doing: What is being done, in a few words.
        share: The fraction of the estimated time that has passed, from 0 to 1.
        seconds_left: The estimated seconds until the run ends.
        loss: The loss of the last training step, in nats per token.
        tokens_per_second: The speed of the last training step.
    """

    stage: str
    doing: str
    share: float
    seconds_left: float
    loss: float | None = None
    tokens_per_second: float | None = None


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
