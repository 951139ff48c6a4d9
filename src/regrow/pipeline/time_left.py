"""Estimate how long the rest of a run takes, from the work of each step and measured rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

GUESSED_RATES: Mapping[str, float] = {
    "train": 2.4e11, "forward": 2.4e11, "score": 1.2e11, "carve": 3e8, "write": 200.0,
    "generate": 2.5e9, "fixed": 1.0,
}  # fmt: skip
"""The rate of each kind of work before one is measured, per second, on a laptop.

The units are floating-point operations (`train`, `forward`, `score`: scores and refits), bytes
(`carve`), tokens (`write`: text for training, many sequences at a time), tokens times parameters
(`generate`: one sequence at a time), and seconds (`fixed`).
"""

_MAX_FACTOR = 1e15
"""A measured rate is ignored if it differs from the guess by more than this factor."""
_UNMEASURED = 0.1
"""The largest part of the time left that may rest on rates that were not measured."""


@dataclass(frozen=True)
class StepWork:
    """The work of a step: its kind, and its amount in the unit of that kind (`GUESSED_RATES`)."""

    step: str
    kind: str
    amount: float


@dataclass
class Clock:
    """The remaining time of a run, from the work that was measured so far.

    Each kind of work has a rate: the mean rate of the measured work. Before any was measured, it is
    a guess, corrected by how far the other guesses were off on this machine. There is no time left
    to tell while a part of it that counts rests on guesses.

    Attributes:
        work: The work of each step.
        guesses: The rate of each kind of work to begin with. One that differs from `GUESSED_RATES`
            was tried on this machine before the run, and counts as measured.
    """

    work: list[StepWork]
    guesses: Mapping[str, float] = field(default_factory=lambda: GUESSED_RATES)
    _done: dict[str, float] = field(default_factory=dict)
    _measured: dict[str, tuple[float, float]] = field(default_factory=dict)
    _largest_share: float = 0.0

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

    def finish(self, step: str, seconds: float | None = None) -> None:
        """Mark a step as complete, even if its estimated amount was too large.

        `seconds`: how long it took, if no part of it was reported by `done`.
        """
        work = next((work for work in self.work if work.step == step), None)
        if work is not None and seconds is not None and step not in self._done:
            self.done(step, work.amount, seconds)
        self._done[step] = float("inf")

    def rate(self, kind: str) -> float:
        """Work of a kind per second: as measured, or else as guessed."""
        return self._measured_rate(kind) or GUESSED_RATES[kind] * self._correction()

    def _measured_rate(self, kind: str) -> float | None:
        total, spent = self._measured.get(kind, (0.0, 0.0))
        guess = GUESSED_RATES[kind]
        measured = total / spent if spent else 0.0
        # An extreme rate would make the remaining time infinite.
        if guess / _MAX_FACTOR < measured < guess * _MAX_FACTOR:
            return measured
        return self.guesses[kind] if self.guesses[kind] != guess else None

    def _correction(self) -> float:
        """How many times as fast as guessed the measured kinds are, as their geometric mean."""
        rates = [(self._measured_rate(kind), guess) for kind, guess in GUESSED_RATES.items()]
        logs = [math.log(rate / guess) for rate, guess in rates if rate is not None]
        return math.exp(sum(logs) / len(logs)) if logs else 1.0

    def _left(self) -> list[tuple[str, float]]:
        """The kind of work of each step, and the seconds that are left of it."""
        rates = {kind: self.rate(kind) for kind in {work.kind for work in self.work}}
        return [
            (work.kind, max(0.0, work.amount - self._done.get(work.step, 0.0)) / rates[work.kind])
            for work in self.work
        ]

    @property
    def seconds_left(self) -> float | None:
        """The estimated seconds until all steps are complete; None if too much is not measured."""
        left = self._left()
        total = sum(seconds for _, seconds in left)
        guessed = sum(seconds for kind, seconds in left if self._measured_rate(kind) is None)
        return None if guessed > _UNMEASURED * total else total

    @property
    def share(self) -> float:
        """The fraction of the estimated time that has passed, from 0 to 1; it never falls."""
        whole = sum(work.amount / self.rate(work.kind) for work in self.work)
        left = sum(seconds for _, seconds in self._left())
        self._largest_share = max(self._largest_share, 1.0 - left / whole if whole else 1.0)
        return self._largest_share
