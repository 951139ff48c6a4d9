"""The learning rate of each step."""

import math

from regrow.training.settings import RecoverySettings


def learning_rate(step: int, settings: RecoverySettings) -> float:
    """Linear warm-up to the peak, then a cosine down to ``final_rate`` of it at the last step.

    Args:
        step: From 0 to ``settings.steps - 1``.
    """
    warm = math.ceil(settings.warmup * settings.steps)
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    progress = (step + 1 - warm) / (settings.steps - warm)
    fall = (1 + math.cos(math.pi * progress)) / 2
    return settings.learning_rate * (settings.final_rate + (1 - settings.final_rate) * fall)
