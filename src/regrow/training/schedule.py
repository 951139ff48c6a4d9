"""How many steps a budget pays for, and the learning rate of each."""

import math
from dataclasses import dataclass

from regrow.training.settings import RecoverySettings


@dataclass(frozen=True)
class Schedule:
    """The steps of a training.

    Attributes:
        rows: That the budget pays for.
        batch_rows: In an optimiser step.
    """

    rows: int
    batch_rows: int

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch_rows)


def schedule(settings: RecoverySettings, mean_tokens: float) -> Schedule:
    """The schedule over rows of `mean_tokens` tokens on average."""
    return Schedule(
        rows=math.ceil(settings.tokens / mean_tokens),
        batch_rows=max(1, int(settings.batch_tokens // mean_tokens)),
    )


def learning_rate(step: int, steps: int, settings: RecoverySettings) -> float:
    """Linear warm-up to the peak, then a cosine down to ``final_rate`` of it at the last step.

    Args:
        step: From 0 to ``steps - 1``.
    """
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    progress = (step + 1 - warm) / (steps - warm)
    fall = (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * fall)
