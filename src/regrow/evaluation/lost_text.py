"""What tokenization loses of a text, of which bits per byte know nothing.

A model is asked to predict tokens. Where a tokenizer has no token for a character, the model
predicts the unknown token, which is easy. What a normalizer drops, the model need not predict.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LostText:
    """What tokenization loses of some texts.

    Attributes:
        unknown: Unknown tokens, as a share of all tokens, from 0 to 1.
        bytes: UTF-8 bytes of characters that the tokens do not spell, as a share of all bytes, from
            0 to 1: unknown ones, and those that the normalizer drops or changes.
    """

    unknown: float
    bytes: float


def lost_text(texts: Sequence[str], ids: Sequence[Sequence[int]], tokenizer: Any) -> LostText:
    """Compare texts with what their tokens spell.

    `ids`: the tokens of each text. The order of characters is not compared.
    """
    unknown = _unknown_id(tokenizer)
    known = [[token for token in line if token != unknown] for line in ids]
    tokens, left = sum(map(len, ids)), sum(map(len, known))
    spelled = tokenizer.batch_decode(
        known, skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    lost = sum(
        count * len(character.encode())
        for text, found in zip(texts, spelled, strict=True)
        if text != found
        for character, count in (Counter(text) - Counter(found)).items()
    )
    size = sum(len(text.encode()) for text in texts)
    return LostText((tokens - left) / max(1, tokens), lost / max(1, size))


def _unknown_id(tokenizer: Any) -> int | None:
    """The id that stands for what has no token; None if all text has tokens, as in byte-level BPE.

    There, the name of the unknown token is often that of another special token (GPT-2).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    model: Any = None if backend is None else backend.model
    if type(model).__name__ == "BPE" and model.unk_token is None:
        return None
    found: int | None = tokenizer.unk_token_id
    return found
