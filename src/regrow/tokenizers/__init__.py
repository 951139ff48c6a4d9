"""A smaller vocabulary that still encodes what it must.

Choosing and cutting is dispatched by the kind of tokenizer, which is read from ``tokenizer.json``.
Nothing here loads torch or transformers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.errors import UserError
from regrow.tokenizers import byte_bpe
from regrow.tokenizers.choice import Reason, VocabularyChoice

__all__ = ["Reason", "VocabularyChoice", "kind_of", "prune_tokenizer_json", "select"]

Json = dict[str, Any]


@dataclass(frozen=True)
class Family:
    """What has to be known about one kind of tokenizer."""

    select: Callable[[Json, NDArray[np.int64], int, Mapping[int, str]], VocabularyChoice]
    prune: Callable[[Json, NDArray[np.int64]], Json]


FAMILIES: Mapping[str, Family] = {
    "byte-level BPE": Family(byte_bpe.select, byte_bpe.prune_tokenizer_json),
}


def kind_of(tokenizer_json: Json) -> str:
    """The kind of tokenizer: "byte-level BPE", "BPE with byte fallback", "Unigram" and so on."""
    model = tokenizer_json["model"]
    # Old files leave the type of the model out.
    kind: str = model.get("type") or ("BPE" if "merges" in model else "unnamed")
    if kind != "BPE":
        return kind
    if model.get("byte_fallback"):
        return "BPE with byte fallback"
    steps = (tokenizer_json.get(key) for key in ("normalizer", "pre_tokenizer"))
    return "byte-level BPE" if any(map(_is_byte_level, steps)) else "BPE without byte level"


def select(
    tokenizer_json: Json,
    counts: NDArray[np.int64],
    size: int,
    must_keep: Mapping[int, str] | None = None,
) -> VocabularyChoice:
    """Choose exactly ``size`` tokens to keep; see the ``select`` of the tokenizer's family.

    Args:
        tokenizer_json: the contents of the file.
        counts: occurrences by id, shape [largest id + 1].
        size: the number of tokens to keep.
        must_keep: by id, where else it is named, such as "config.json: eos_token_id".

    Raises:
        UserError: a kind of tokenizer that cannot be pruned, or what the family refuses.
    """
    return _family(tokenizer_json).select(tokenizer_json, counts, size, must_keep or {})


def prune_tokenizer_json(tokenizer_json: Json, kept: NDArray[np.int64]) -> Json:
    """The contents of ``tokenizer.json`` with the ``kept`` old ids only, renumbered from 0.

    Raises:
        UserError: a kind of tokenizer that cannot be pruned, or what the family refuses.
    """
    return _family(tokenizer_json).prune(tokenizer_json, kept)


def _family(tokenizer_json: Json) -> Family:
    if "vocab" not in (tokenizer_json.get("model") or {}):
        raise UserError("tokenizer.json: model.vocab is missing; this is not a tokenizer")
    kind = kind_of(tokenizer_json)
    if kind not in FAMILIES:
        raise UserError(
            f"tokenizer.json: the tokenizer is {kind}; what can be pruned is {', '.join(FAMILIES)}"
        )
    return FAMILIES[kind]


def _is_byte_level(step: Json | None) -> bool:
    if step is None:
        return False
    parts = step.get("pretokenizers") or step.get("normalizers") or []
    return step["type"] == "ByteLevel" or any(map(_is_byte_level, parts))
