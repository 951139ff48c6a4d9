"""A smaller vocabulary for WordPiece that encodes what it kept as before.

Two guarantees hold for a set of kept tokens that contains the unknown token, every special and
added token, and every token of one character, at the beginning of a word or inside:

1. A text whose original encoding uses kept tokens only is encoded to the same tokens, renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.

They make an exception for characters that occur, at the beginning or inside, in longer tokens only:
a word with one that was known may become unknown, or the other way round. All of those tokens are
kept. Vocabularies that were trained have none.

Proof. Normalizer, pre-tokenizer and added tokens do not change, so it is enough to look at one
word. WordPiece takes from its beginning the longest token that fits, then the longest that fits
behind it, and so on. Where none fits, the whole word is the unknown token; so is one of more than
``max_input_chars_per_word`` characters, which is a matter of its length alone.

*Guarantee 1.* If the word is known, its tokens are kept, and each is the longest of all that fit in
its place, so it is the longest of the kept ones too. If it is unknown, some place has a character
that has no token of its own there, since that would fit. By the exception no token has it there, so
no other way of cutting the word gets over it, and it is unknown still. This needs no characters.

*Guarantee 2.* A word that is known has only characters with tokens of their own, by the exception.
They are kept, so something fits in each place, and the tokens spell the word. As above, one that is
unknown is so still.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from regrow.tokenizers.candidates import Reason, TokenizerModel
from regrow.tokenizers.sentencepiece_model import Piece

Json = dict[str, Any]


def read_wordpiece(tokenizer_json: Json, pieces: Sequence[Piece] = ()) -> TokenizerModel:
    """The model of a tokenizer that is known to be WordPiece."""
    model = tokenizer_json["model"]
    vocab: dict[str, int] = model["vocab"]
    prefix: str = model.get("continuing_subword_prefix", "##")
    unknown: str = model.get("unk_token", "[UNK]")
    # Without an unknown token the tokenizers library fails at a word that does not fit.
    reason: Reason = "character" if unknown in vocab else "byte"
    required: dict[int, Reason] = {}
    if unknown in vocab:
        required[vocab[unknown]] = "special"
    for content, token in vocab.items():
        characters = _characters(content, prefix)
        if len(characters) == 1 or not all(character in vocab for character in characters):
            required.setdefault(token, reason)
    return TokenizerModel(
        required=required,
        parts={},
        unreachable=(),
        rank={},
        as_token=str.strip,
        prune=partial(_prune, model),
    )


def _characters(content: str, prefix: str) -> list[str]:
    """The tokens of one character that spell the same."""
    if prefix and content.startswith(prefix) and content != prefix:
        return [prefix + character for character in content[len(prefix) :]]
    return [content[:1], *(prefix + character for character in content[1:])]


def _prune(model: Json, mapping: Mapping[int, int]) -> Json:
    vocab = {content: mapping[old] for content, old in model["vocab"].items() if old in mapping}
    return {**model, "vocab": vocab}
