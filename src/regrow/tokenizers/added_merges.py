"""More tokens for BPE, merged from existing tokens.

The new merges come after all others. So a text is merged as before, and then by the new merges.
Text without a new pair is encoded as before.
"""

from collections.abc import Sequence
from typing import Any

from regrow.common.errors import UserError
from regrow.tokenizers.merges import read_bpe
from regrow.tokenizers.tokenizer_json import renumber, token_ids

Json = dict[str, Any]


def add_merges(
    tokenizer_json: Json, merges: Sequence[tuple[str, str]]
) -> tuple[Json, dict[int, int]]:
    """The contents of ``tokenizer.json`` with further merges, and the new id by old id.

    The product of each merge is a new token. The ids of new tokens follow those of ``model.vocab``.
    Tokens that were added outside the model move behind them, since the tokenizers library numbers
    them so.

    Raises:
        UserError: the ids of ``model.vocab`` have holes, a part of a merge is no token, or the
            product is a token already.
    """
    bpe = read_bpe(tokenizer_json)
    first = len(bpe.vocab)
    if sorted(bpe.vocab.values()) != list(range(first)):
        raise UserError("tokenizer.json: the ids of model.vocab have holes; close them")
    vocab = dict(bpe.vocab)
    for left, right in merges:
        for part in (left, right):
            if part not in vocab:
                raise UserError(f"merges: {part!r} is no token")
        if left + right in vocab:
            raise UserError(f"merges: {left + right!r} is a token already")
        vocab[left + right] = len(vocab)
    mapping = {
        token: token if token < first else token + len(merges)
        for token in token_ids(tokenizer_json).values()
    }
    model = tokenizer_json["model"]
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    added = [f"{left} {right}" if as_text else [left, right] for left, right in merges]
    new = {
        **renumber(tokenizer_json, mapping),
        "model": {**model, "vocab": vocab, "merges": [*model["merges"], *added]},
    }
    return new, mapping
