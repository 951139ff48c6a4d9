"""How long the rest of a run takes: work by kind, with rates that correct themselves."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

GUESSED_RATES: Mapping[str, float] = {"train": 6e11, "forward": 4e11, "write": 3e8, "fixed": 1.0}
"""Work a second before anything is measured: floating-point operations, bytes, seconds."""


_REASON = 1e15
"""How far a measured rate may lie from the guess."""


@dataclass(frozen=True)
class Piece:
    """Work to do: its kind, and how much of it (floating-point operations, bytes or seconds)."""

    step: str
    kind: str
    amount: float


@dataclass
class Clock:
    """Remaining time of a run from what was measured so far.

    Each kind of work has a rate. It begins as a guess; what was seen replaces it, weighted by
    amount. `done` may be called in parts.
    """

    pieces: list[Piece]
    now: Callable[[], float] = time.monotonic
    _done: dict[str, float] = field(default_factory=dict)
    _seen: dict[str, tuple[float, float]] = field(default_factory=dict)

    def done(self, step: str, amount: float, seconds: float | None = None) -> None:
        """So much of a step is done; `seconds`: what this part took, None where it was skipped."""
        self._done[step] = self._done.get(step, 0.0) + amount
        kind = next((piece.kind for piece in self.pieces if piece.step == step), None)
        if kind is not None and seconds is not None:
            work, spent = self._seen.get(kind, (0.0, 0.0))
            self._seen[kind] = (work + amount, spent + seconds)

    def finish(self, step: str) -> None:
        """A step is complete, whatever its amount was said to be."""
        self._done[step] = float("inf")

    def rate(self, kind: str) -> float:
        work, spent = self._seen.get(kind, (0.0, 0.0))
        guess = GUESSED_RATES[kind]
        seen = work / spent if spent else 0.0
        # A rate out of all reason would make the time that is left infinite.
        return seen if guess / _REASON < seen < guess * _REASON else guess

    @property
    def left(self) -> float:
        """Seconds."""
        return sum(
            max(0.0, piece.amount - self._done.get(piece.step, 0.0)) / self.rate(piece.kind)
            for piece in self.pieces
        )

    @property
    def share(self) -> float:
        """Part of the whole time that is behind, from 0 to 1."""
        whole = sum(piece.amount / self.rate(piece.kind) for piece in self.pieces)
        return 1.0 - self.left / whole if whole else 1.0
