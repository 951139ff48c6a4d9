"""The special tokens that objectives write their examples with, and which a tokenizer lacks.

Tokenizers are those of transformers. Importing this module imports neither PyTorch nor NumPy.
"""

from collections.abc import Mapping
from typing import Any

Tokenizer = Any
"""A transformers tokenizer; its package is not imported here."""

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


def sentinel_ids(tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids of a tokenizer's sentinels, in order; empty without a first one.

    A sentinel is the token that the tokenizer makes of its name. T5 and UMT5 have a special token
    `<extra_id_0>`. mT5 has a piece of SentencePiece with a space before it, `▁<extra_id_0>`.
    """
    ids: list[int] = []
    while (token := _token_of(tokenizer, f"<extra_id_{len(ids)}>")) is not None:
        ids.append(token)
    return tuple(ids)


def _token_of(tokenizer: Tokenizer, name: str) -> int | None:
    """The one token that a tokenizer makes of a name; None if it divides the name.

    A token that is only the space before the name does not count.
    """
    ids = tokenizer(name, add_special_tokens=False)["input_ids"]
    spelled = zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    found = [(token, text.removeprefix("▁")) for token, text in spelled if text != "▁"]
    return int(found[0][0]) if [text for _, text in found] == [name] else None


def missing_sentinels(tokenizer: Tokenizer) -> tuple[str, ...]:
    """All of `SENTINELS` if the tokenizer has none, else nothing.

    A tokenizer with some sentinels is not given more: whoever trained it chose their number.
    """
    return () if sentinel_ids(tokenizer) else SENTINELS


def missing_prefixes(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Those of `PREFIXES` that the tokenizer does not have."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    return tuple(name for name in PREFIXES if name not in vocabulary)


def missing_infilling_tokens(tokenizer: Tokenizer) -> tuple[str, ...]:
    """StarCoder's three tokens if the tokenizer has no complete set of `INFILLING_TOKENS`."""
    vocabulary: Mapping[str, int] = tokenizer.get_vocab()
    is_known = any(all(name in vocabulary for name in names) for names in INFILLING_TOKENS)
    return () if is_known else INFILLING_TOKENS[0]
