"""Estimate how long the rest of a run takes, from the work of each step and measured rates."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

GUESSED_RATES: Mapping[str, float] = {
    "train": 6e11, "forward": 4e11, "generate": 300.0, "write": 3e8,
    "fixed": 1.0,
}  # fmt: skip
"""The rate of each kind of work before one is measured, per second.

The units are floating-point operations (`train`, `forward`), tokens (`generate`), bytes (`write`)
and seconds (`fixed`).
"""

_MAX_FACTOR = 1e15
"""A measured rate is ignored if it differs from the guess by more than this factor."""


@dataclass(frozen=True)
class StepWork:
    """The work of a step: its kind, and its amount in the unit of that kind (`GUESSED_RATES`)."""

    step: str
    kind: str
    amount: float


@dataclass
class Clock:
    """The remaining time of a run, from the work that was measured so far.

    Each kind of work has a rate: a guess at first, then the mean rate of the measured work.

    Attributes:
        work: The work of each step.
        now: The time in seconds.
        guesses: The rate of each kind of work before one is measured.
    """

    work: list[StepWork]
    now: Callable[[], float] = time.monotonic
    guesses: Mapping[str, float] = field(default_factory=lambda: GUESSED_RATES)
    _done: dict[str, float] = field(default_factory=dict)
    _measured: dict[str, tuple[float, float]] = field(default_factory=dict)

    def done(self, step: str, amount: float, seconds: float | None = None) -> None:
        """Add work that was done for a step; a step may be done in parts.

        `amount`: in the unit of the step's kind. `seconds`: how long this part took; None if it was
        skipped, so that it does not change the rate.
        """
        self._done[step] = self._done.get(step, 0.0) + amount
        kind = next((work.kind for work in self.work if work.step == step), None)
        if kind is not None and seconds is not None:
            total, spent = self._measured.get(kind, (0.0, 0.0))
            self._measured[kind] = (total + amount, spent + seconds)

    def finish(self, step: str) -> None:
        """Mark a step as complete, even if its estimated amount was too large."""
        self._done[step] = float("inf")

    def rate(self, kind: str) -> float:
        """Work of a kind per second: as measured, or else as guessed."""
        total, spent = self._measured.get(kind, (0.0, 0.0))
        guess = self.guesses[kind]
        measured = total / spent if spent else 0.0
        # An extreme rate would make the remaining time infinite.
        return measured if guess / _MAX_FACTOR < measured < guess * _MAX_FACTOR else guess

    @property
    def seconds_left(self) -> float:
        """The estimated seconds until all steps are complete."""
        return sum(
            max(0.0, work.amount - self._done.get(work.step, 0.0)) / self.rate(work.kind)
            for work in self.work
        )

    @property
    def share(self) -> float:
        """The fraction of the estimated time that has passed, from 0 to 1."""
        whole = sum(work.amount / self.rate(work.kind) for work in self.work)
        return 1.0 - self.seconds_left / whole if whole else 1.0
