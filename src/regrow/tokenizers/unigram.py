"""Unigram with fewer tokens: text of kept tokens is encoded as before.

Two guarantees hold if the kept tokens contain the unknown token, every special and added token, a
piece of the least score, and the tokens of all bytes and of the space. If the tokenizer does not
have all bytes, the kept tokens contain all characters instead.

1. If the original encoding of a text has only kept tokens, the new encoding has the same tokens,
   renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.

Proof. Normalizer, pre-tokenizer and added tokens do not change. So it is enough to look at one
piece of text that they leave. Unigram takes the path of the greatest score through the text. For
each end position, in order, it takes the best step: the one with the greatest sum of the score up
to the start of the step and the score of its piece. Of equal sums, the step with the first start
wins. A character that is no piece is a step too, an unknown one: its score is the least score of
all pieces, minus 10.

*Guarantee 1.* Since a piece of the least score is kept, unknown steps keep their score. A dropped
character is unknown now: its step had at least the least score, and now has less. So, by induction
over the end positions, no score up to any end rises. (Rounded addition is monotone, so this is true
to the bit.) Along the old path no score falls either: its pieces are kept, and its unknown
characters are still unknown. So at each end on the old path, the old step has the same score, and
other steps have at most the score that they had. A step with an earlier start had less, and still
has. So the same step wins, also with ties and rounding.

Without a piece of the least score this fails: unknown characters would cost less, and a path with
unknown characters could win.

*Guarantee 2.* The pieces of a path give the text. Unknown characters are written as bytes, which
are decoded to the character again. This is not true for the space, since its sign ``▁`` would be
decoded as that sign, so the space is kept. Without bytes, all characters are kept: the same
characters are unknown as before, and each run of them becomes one unknown token, as before. There
is one exception, a character that occurs only in longer pieces. All of these pieces are kept, but
the best path can now be one without such a piece.

If a text begins with several spaces, the Metaspace decoder of the tokenizers library drops the
spaces of the first token. Then the decoded texts can differ by leading spaces.

*The sentencepiece library* scores in the same way, in float32 (``unigram_model.cc``). But it takes
the least score from pieces of text only, and scores a user-defined piece by the greatest score. A
piece of each is kept (:meth:`regrow.tokenizers.sentencepiece_model.SentencePieceModel.required`).
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import (
    BYTE_TOKENS,
    SPACE,
    has_byte_fallback,
    to_sentencepiece,
    tokens_for_alphabet,
)
from regrow.tokenizers.candidates import Reason, TokenizerModel
from regrow.tokenizers.sentencepiece_model import Piece

Json = dict[str, Any]

_NEVER = -float("inf")


def read_unigram(tokenizer_json: Json, pieces: Sequence[Piece] = ()) -> TokenizerModel:
    """The model of a Unigram tokenizer.

    Raises:
        UserError: the vocabulary is malformed.
    """
    model = tokenizer_json["model"]
    vocab: list[list[Any]] = model["vocab"]
    scores = {content: float(score) for content, score in vocab}
    ids = {content: token for token, (content, _) in enumerate(vocab)}
    unknown = model.get("unk_id")
    if unknown is not None and not 0 <= unknown < len(vocab):
        raise UserError(
            f"tokenizer.json: model.unk_id is {unknown}, but there are {len(vocab):,} pieces"
        )

    byte: Reason = "byte"
    required: dict[int, Reason] = {} if unknown is None else {unknown: "special"}
    alphabet, reason = frozenset(SPACE), byte
    if has_byte_fallback(tokenizer_json):
        required |= {ids[content]: byte for content in BYTE_TOKENS}
    else:
        alphabet = frozenset().union(*ids)
        # Without an unknown token the tokenizers library fails at an unknown character.
        reason = byte if unknown is None else "character"
    if scores:  # before the characters, which may be given up
        required.setdefault(ids[min(scores, key=scores.__getitem__)], "score")
    for content in tokens_for_alphabet(ids.keys(), alphabet):
        required.setdefault(ids[content], reason)
    return TokenizerModel(
        required=required,
        parts={},
        unreachable={ids[content] for content in scores if not _is_best(content, scores)},
        rank={ids[content]: -score for content, score in scores.items()},
        as_token=to_sentencepiece,
        prune=partial(_prune, model),
    )


def _is_best(piece: str, scores: Mapping[str, float]) -> bool:
    """Whether Unigram takes a piece for its own text, and not several pieces.

    If several pieces are better, they are better inside any text, and the piece is never taken. A
    path with an unknown character is worse than any piece.
    """
    best = [0.0] + [_NEVER] * len(piece)
    for end in range(1, len(piece) + 1):
        first = 1 if end == len(piece) else 0
        best[end] = max(
            (
                best[start] + scores[piece[start:end]]
                for start in range(first, end)
                if best[start] != _NEVER and piece[start:end] in scores
            ),
            default=_NEVER,
        )
    return scores[piece] >= best[-1]


def _prune(model: Json, mapping: Mapping[int, int]) -> Json:
    kept = [entry for token, entry in enumerate(model["vocab"]) if token in mapping]
    unknown = model.get("unk_id")
    return {**model, "vocab": kept, "unk_id": None if unknown is None else mapping[unknown]}
