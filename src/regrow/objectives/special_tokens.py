"""The tokens that an objective writes its examples with, and which of them a tokenizer lacks."""

from collections.abc import Collection

from regrow.objectives.rows.denoisers import PREFIXES
from regrow.objectives.rows.fill_in_the_middle import MARKS

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
"""As many as T5 has."""


def lacking(objective: str, vocabulary: Collection[str]) -> tuple[str, ...]:
    """The tokens that a tokenizer has to be given for an objective, in order.

    A tokenizer with some sentinels is not given more: their number is a choice of who trained it.
    """
    if objective == "fill-in-the-middle":
        known = any(all(name in vocabulary for name in names) for names in MARKS)
        return () if known else MARKS[0]
    if objective in ("causal", "prefix-lm"):
        return ()
    sentinels = () if SENTINELS[0] in vocabulary else SENTINELS
    prefixes = () if objective == "span-corruption" else PREFIXES
    return (*sentinels, *(name for name in prefixes if name not in vocabulary))
