"""WordPiece with fewer tokens: text of kept tokens is encoded as before.

Two guarantees hold if the kept tokens contain the unknown token, every special and added token, and
every token of one character, both at the beginning of a word and inside a word:

1. If the original encoding of a text has only kept tokens, the new encoding has the same tokens,
   renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.

There is one exception: a character that, at the beginning or inside, occurs only in longer tokens.
A known word with such a character may become unknown, or an unknown one known. All tokens with such
a character are kept. Trained vocabularies have no such characters.

Proof. Normalizer, pre-tokenizer and added tokens do not change. So it is enough to look at one
word. WordPiece takes the longest token that fits at the beginning of the word, then the longest
that fits after it, and so on. If none fits, the whole word is the unknown token. A word of more
than ``max_input_chars_per_word`` characters is unknown too, before and after.

*Guarantee 1.* If the word is known, its tokens are kept. Each is the longest of all tokens that fit
at its place, so it is also the longest of the kept tokens. If the word is unknown, no token fits at
some place, so the character there has no token of its own. Without the exception, no longer token
has that character there either. So no way to cut the word covers it, and the word is still unknown.

*Guarantee 2.* Without the exception, each character of a known word has a token of its own. These
are kept, so a token fits at each place, and the tokens give the word. An unknown word is still
unknown, as above.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from regrow.tokenizers.candidates import Reason, TokenizerModel
from regrow.tokenizers.sentencepiece_model import Piece

Json = dict[str, Any]


def read_wordpiece(tokenizer_json: Json, pieces: Sequence[Piece] = ()) -> TokenizerModel:
    """The model of a WordPiece tokenizer."""
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
    """The tokens of one character that give the same text."""
    if prefix and content.startswith(prefix) and content != prefix:
        return [prefix + character for character in content[len(prefix) :]]
    return [content[:1], *(prefix + character for character in content[1:])]


def _prune(model: Json, mapping: Mapping[int, int]) -> Json:
    vocab = {content: mapping[old] for content, old in model["vocab"].items() if old in mapping}
    return {**model, "vocab": vocab}
