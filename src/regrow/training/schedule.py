"""How many steps a budget pays for, and the learning rate of each."""

import math
from dataclasses import dataclass

import numpy as np

from regrow.corpus.samples import DataOrder, Order, Samples
from regrow.training.settings import RecoverySettings

_AT_ONCE = 1 << 16
"""Rows whose lengths are held at once."""


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


def schedule(settings: RecoverySettings, samples: Samples, order: Order) -> Schedule:
    """As many rows, in this order, as it takes to meet the budget."""
    rows = tokens = 0
    if isinstance(order, DataOrder) and len(samples) <= _AT_ONCE:
        total = int(samples.lengths(np.arange(len(samples))).sum())
        epochs = settings.tokens // total
        rows, tokens = epochs * len(samples), epochs * total
    while (missing := settings.tokens - tokens) > 0:
        mean = tokens / rows if rows else samples.row_length
        count = min(math.ceil(missing / mean), _AT_ONCE)
        met = np.cumsum(samples.lengths(order.rows(rows, rows + count)))
        needed = min(int(np.searchsorted(met, missing)) + 1, count)
        rows, tokens = rows + needed, tokens + int(met[needed - 1])
    return Schedule(rows, batch_rows=max(1, settings.batch_tokens * rows // tokens))


def learning_rate(step: int, steps: int, settings: RecoverySettings) -> float:
    """Linear warm-up to the peak, then down to ``final_rate`` of it at the last step.

    Down by a cosine from there on; or (``wsd``) in a line over the last ``decay`` of the steps.

    Args:
        step: From 0 to ``steps - 1``.
    """
    warm = math.ceil(settings.warmup * steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    stable = settings.schedule == "wsd"
    first = max(warm, steps - math.ceil(settings.decay * steps)) if stable else warm
    if step < first:
        return settings.learning_rate
    progress = (step + 1 - first) / (steps - first)
    fall = 1 - progress if stable else (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * fall)
