"""A smaller vocabulary for Unigram that encodes what it kept as before.

Two guarantees hold for a set of kept tokens that contains the unknown token, every special and
added token, a piece of the least score, and all bytes and the space, or, where the tokenizer has
not all bytes, all characters:

1. A text whose original encoding uses kept tokens only is encoded to the same tokens, renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.

Proof. Normalizer, pre-tokenizer and added tokens do not change, so it is enough to look at one
piece of text between them. Unigram takes the path of the greatest score through the text: for each
end, in order, the best of (score up to the start, then the piece), where of equal ones that with
the first start wins. A piece has its score. A character that is no piece is one step too, unknown,
with the least score of all pieces minus 10.

*Guarantee 1.* A kept piece of the least score keeps the score of what is unknown. A character that
is dropped is unknown now: a step with less than the least score in the place of one with at least
that. So by induction over the ends, no score up to any end rises: rounded addition is monotone, so
that is true to the bit. Along the old path nothing falls either, since its pieces are kept, and its
unknown characters are unknown still. So at each end of it the old step has the score that it had,
others have at most theirs, and one with an earlier start, which was less, still is: the same step
wins. Ties and rounding need no further thought.

Without a piece of the least score this fails: the penalty of the unknown would shrink, and a path
that was worse for its unknown characters could win.

*Guarantee 2.* A path spells the text. Unknown characters are written as bytes, which become the
character again when decoded. Only the space does not, as its sign is another character in bytes; so
the space is kept. Without bytes, all characters are kept; then those are unknown that were, and
each run of them becomes one unknown token, as it did. A character that is to be kept, but occurs in
longer pieces only, is an exception: all of those pieces are kept, but another path than the one
over such a piece can be the best now.

Where text begins with several spaces, the Metaspace decoder of the tokenizers library drops those
that the first token has: there the decoded texts can differ by leading spaces.

*sentencepiece itself* scores in the same way (``unigram_model.cc``), in float32, but takes only
pieces of text for the least score, and scores a user-defined piece by the greatest one; both are
kept (:meth:`regrow.tokenizers.sentencepiece_model.SentencePieceModel.required`).
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
    """The model of a tokenizer that is known to be Unigram.

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
    for content in tokens_for_alphabet(ids.keys(), alphabet):
        required.setdefault(ids[content], reason)
    if scores:
        required.setdefault(ids[min(scores, key=scores.__getitem__)], "score")
    return TokenizerModel(
        required=required,
        parts={},
        unreachable={ids[content] for content in scores if not _is_best(content, scores)},
        rank={ids[content]: -score for content, score in scores.items()},
        as_token=to_sentencepiece,
        prune=partial(_prune, model),
    )


def _is_best(piece: str, scores: Mapping[str, float]) -> bool:
    """Whether no other path over the text of a piece is better, nor equal and chosen for it.

    If one is, it is better inside any text, so the piece is never taken. A path with an unknown
    character is worse than any piece.
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
