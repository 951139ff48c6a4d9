"""The number of steps of a training, and the learning rate of each."""

import math
from dataclasses import dataclass

import numpy as np

from regrow.corpus.samples import DataOrder, Order, Samples
from regrow.training.settings import RecoverySettings

_ROWS_PER_READ = 1 << 16
"""Rows whose lengths are read at once."""


@dataclass(frozen=True)
class Schedule:
    """The steps of a training.

    Attributes:
        rows: Number of rows to train on.
        batch_rows: Rows in an optimiser step.
    """

    rows: int
    batch_rows: int

    @property
    def steps(self) -> int:
        return -(-self.rows // self.batch_rows)


def schedule(settings: RecoverySettings, samples: Samples, order: Order) -> Schedule:
    """The steps of the fewest rows, in this order, that meet the budget of tokens."""
    rows = tokens = 0
    if isinstance(order, DataOrder) and len(samples) <= _ROWS_PER_READ:
        total = int(samples.lengths(np.arange(len(samples))).sum())
        epochs = settings.tokens // total
        rows, tokens = epochs * len(samples), epochs * total
    while (missing := settings.tokens - tokens) > 0:
        mean = tokens / rows if rows else samples.row_length
        count = min(math.ceil(missing / mean), _ROWS_PER_READ)
        reached = np.cumsum(samples.lengths(order.rows(rows, rows + count)))
        needed = min(int(np.searchsorted(reached, missing)) + 1, count)
        rows, tokens = rows + needed, tokens + int(reached[needed - 1])
    return Schedule(rows, batch_rows=max(1, settings.step_tokens * rows // tokens))


def learning_rate(step: int, steps: int, settings: RecoverySettings) -> float:
    """The learning rate of a step, numbered from 0 to ``steps - 1``.

    It rises linearly to the peak, then decays, and is ``final_rate`` of the peak at the last step.
    ``cosine`` decays from the end of the warm-up; ``wsd`` decays linearly over the last ``decay``
    of the steps.
    """
    warmup_steps = math.ceil(settings.warmup * steps)
    if step < warmup_steps:
        return settings.learning_rate * (step + 1) / warmup_steps
    is_wsd = settings.schedule == "wsd"
    decay_start = warmup_steps
    if is_wsd:
        decay_start = max(warmup_steps, steps - math.ceil(settings.decay * steps))
    if step < decay_start:
        return settings.learning_rate
    progress = (step + 1 - decay_start) / (steps - decay_start)
    remaining = 1 - progress if is_wsd else (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * remaining)
