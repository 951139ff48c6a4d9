"""What the OpenBA-V2 report (arXiv 2405.05957) and the README of its code found, as data.

Figures 5 to 8 are drawings without numbers, so what they show stands in words.
"""

from collections.abc import Mapping

TASKS: Mapping[str, tuple[str, int | None]] = {
    "MMLU": ("mmlu", 5), "BBH": ("leaderboard_bbh", 3), "C-Eval": ("ceval-valid", 5),
    "CMMLU": ("cmmlu", 5), "SciQ": ("sciq", None), "PIQA": ("piqa", None),
    "ARC-Easy": ("arc_easy", None), "ARC-Challenge": ("arc_challenge", None),
    "LogiQA": ("logiqa", None), "BoolQ": ("boolq", None),
}  # fmt: skip
"""The report's tasks: the name of each in lm-eval, and demonstrations; None takes the task's own.

BBH is that of the Open LLM Leaderboard, whose questions have options. How the report asks BBH is
not known.
"""

SCORES: Mapping[str, Mapping[str, float]] = {
    "15B": dict(zip(TASKS, (40.2, 34.1, 39.8, 41.5, 94.6, 71.9, 69.7, 54.4, 33.3, 82.6),
                    strict=True)),
    "3.8B": dict(zip(TASKS, (37.9, 29.5, 37.8, 38.8, 94.7, 71.3, 63.7, 47.7, 32.1, 81.3),
                     strict=True)),
    "3.4B": dict(zip(TASKS, (37.9, 29.6, 37.3, 38.9, 94.6, 70.8, 63.6, 47.7, 32.3, 81.4),
                     strict=True)),
}  # fmt: skip
"""Accuracies in percent."""

ENTITY_SETS = ("movie", "restaurant", "ai", "literature", "music", "politics", "science")
ENTITIES: Mapping[str, Mapping[str, float]] = {
    "15B": dict(zip(ENTITY_SETS, (51.4, 37.4, 58.5, 54.6, 69.1, 68.4, 68.2), strict=True)),
    "3.4B": dict(zip(ENTITY_SETS, (60.3, 43.3, 63.8, 54.3, 72.4, 67.4, 70.6), strict=True)),
}
"""F1 in percent, after training on other types (Pile-NER)."""

ORIGINAL_LOSS = 1.73
LAYERS_AT_ONCE_LOSS = 2.69
"""Nats per token, of the original and with all cuts of layers at once (table 3)."""
