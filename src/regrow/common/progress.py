"""Where a call tells what it is doing."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Update:
    """How far a run or a training is.

    Attributes:
        stage: The stage of the recipe, or `original`, or `result`.
        doing: What is being done, in a few words.
        share: Part of the whole time that is behind, from 0 to 1.
        seconds_left: Of the whole run.
        loss: Of the last training step, in nats per token.
        tokens_per_second: Of the last training step.
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
    """Functions that are told what a call does; by default nobody is.

    Attributes:
        say: One line of news.
        advance: Bytes done, and bytes in all.
        update: Where a run or a training is.
    """

    say: Callable[[str], None] = _ignore
    advance: Callable[[int, int], None] = _ignore
    update: Callable[[Update], None] = _ignore


QUIET = Progress()
