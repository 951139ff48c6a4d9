"""A hash by which a token store and token counts say which tokenizer they were made with."""

import hashlib
import json

from regrow.corpus.encoding import Tokenizer
from regrow.models.loading import library_errors

_PROBE = (
    "Ab 1234,56.7é ﬁ\t日本語\n\n  x__Y'll <s></s> 🙂 İ\u0301 antidisestablishment def f(x):\r\n"
)


def tokenizer_sha256(tokenizer: Tokenizer, ids: int | None = None) -> str:
    """SHA-256 (hex) of a tokenizer's vocabulary and of the tokens of a line of difficult text.

    It does not depend on how its files were written, or by which version of the library. `ids`: use
    only so many of the first ids, for a tokenizer to which special tokens were added since.
    """
    vocabulary = sorted(
        (number, token)
        for token, number in tokenizer.get_vocab().items()
        if ids is None or number < ids
    )
    with library_errors("the tokenizer cannot encode text"):
        probe = tokenizer(_PROBE, add_special_tokens=False, verbose=False)["input_ids"]
    return hashlib.sha256(json.dumps([vocabulary, list(probe)]).encode()).hexdigest()


def last_id(tokenizer: Tokenizer) -> int:
    """The largest id that a tokenizer can give."""
    return int(max(tokenizer.get_vocab().values()))


def token_dtype(tokenizer: Tokenizer) -> str:
    """The type of a token on disk: uint16 if all ids fit, else int32."""
    return "uint16" if last_id(tokenizer) < 1 << 16 else "int32"
