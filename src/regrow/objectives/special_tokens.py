"""The special tokens that objectives write their examples with, and which a tokenizer lacks.

Only names are here, so that a recipe can be checked without PyTorch or NumPy.
"""

from collections.abc import Collection

SENTINELS = tuple(f"<extra_id_{number}>" for number in range(100))
"""T5's sentinels, one for each span that is taken out. As many as T5 has."""

PREFIXES = ("<R>", "<S>", "<X>")
"""UL2's mode tokens for short spans, for the end of a text, and for many or long spans."""

INFILLING_TOKENS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 - DeepSeek's own
)
"""Tokens before prefix, suffix and middle, as StarCoder, Qwen, SantaCoder, Code Llama and DeepSeek
name them. A tokenizer with none of them is given those of StarCoder."""


def missing_sentinels(vocabulary: Collection[str]) -> tuple[str, ...]:
    """All of `SENTINELS` if the tokenizer has none, else nothing.

    A tokenizer with some sentinels is not given more: whoever trained it chose their number.
    """
    return () if SENTINELS[0] in vocabulary else SENTINELS


def missing_prefixes(vocabulary: Collection[str]) -> tuple[str, ...]:
    """Those of `PREFIXES` that the tokenizer does not have."""
    return tuple(name for name in PREFIXES if name not in vocabulary)


def missing_infilling_tokens(vocabulary: Collection[str]) -> tuple[str, ...]:
    """StarCoder's three tokens if the tokenizer has no complete set of `INFILLING_TOKENS`."""
    is_known = any(all(name in vocabulary for name in names) for names in INFILLING_TOKENS)
    return () if is_known else INFILLING_TOKENS[0]
