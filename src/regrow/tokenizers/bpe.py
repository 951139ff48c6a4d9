"""BPE with fewer tokens: text of kept tokens is encoded as before.

The *path* of a token is the tokens from which BPE merges it, at any depth. Three guarantees hold if
the kept tokens contain every token for a byte, every special and added token, the unknown token,
and the path of each kept token that BPE can build:

1. If the original encoding of a text has only kept tokens, the new encoding has the same tokens,
   renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.
3. No text is encoded to a token that the original never emits: its embedding was never trained.

Proof. Added tokens, normalizer and pre-tokenizer do not change. So it is enough to look at one
piece of text that they leave. BPE starts from the symbols of the piece, which are bytes or
characters. As long as there is a known pair, it merges the pair of least (rank, position).

*Paths are nested.* Let ``t`` be a token that occurs while ``w`` is encoded, and ``s`` the part of
``w`` that it covers. Until ``t`` is built, no merge crosses a border of ``s``, and merges outside
``s`` change nothing in it. So each merge inside ``s`` is the least within ``s``: they are the
merges of ``s`` encoded alone. It follows that a token has one path, the same in every text; that
the path contains the paths of its parts; and that a token that is not built when it is encoded
alone is never built.

*Guarantee 1.* So all merges that the original takes in ``w`` are on paths of kept tokens, and their
parts and products are kept. Let the pruned tokenizer have any subset of the old merges, in the old
order, that contains these. At each step its known pairs are a subset of the original's that
contains the least pair, so it takes the same merge. At the end the original knows no pair, so the
pruned tokenizer knows none either.

*Guarantee 2.* All tokens for bytes are kept, and the token that stands for an unknown symbol. So
the symbols at the start give the same text. A merge concatenates two symbols and keeps the text.

*Which merges stay.* Guarantee 1 allows every merge whose parts and product are kept.

- A merge that is not on the path of its product stays and is never taken: the pruned tokenizer
  builds the product by one path too, and by guarantee 1 that is the old path.
- A merge to a token that the original cannot build could be taken when merges that came before it
  are gone. Without ``ignore_merges``, guarantee 3 forbids this, and the merge goes. With
  ``ignore_merges``, the token was emitted for whole pieces and was trained; the merge stays, and
  makes text that lost tokens shorter.

*ignore_merges.* A piece that is a token is taken whole, and still is if the token is kept. If it is
not kept, guarantee 1 says nothing about the text, and the symbols of the piece are merged as above.
That would lose a symbol for which there is no token, so tokens with such a symbol are kept. A piece
that is no token is encoded as above. So a token that BPE cannot build can be kept without a path.

*Characters.* SentencePiece's BPE starts from characters. A character that is no token becomes the
tokens of its UTF-8 bytes, or the unknown token. A tokenizer in which these merge is refused. The
characters of a kept token are on its path, so guarantee 1 holds. With tokens for all 256 bytes, a
dropped character is written as bytes, and guarantee 2 holds. The exception is the space: its sign
``▁`` would not become a space again, so it is kept. Without tokens for bytes, all characters are
kept.

*The sentencepiece library* has no list of merges. It merges any pair whose product is a piece, in
the order of (score of the piece, position). So each piece has a path there too. If it differs from
the path in ``tokenizer.json``, both are kept. A kept piece that the library could not
build before, and could build now, gets another type, so that it is not searched in text: its merge
is gone from ``tokenizer.json`` too.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from regrow.common.errors import UserError
from regrow.tokenizers.alphabet import (
    BYTE_ALPHABET,
    BYTE_TOKENS,
    SPACE,
    has_byte_fallback,
    to_byte_level,
    to_sentencepiece,
    tokens_for_alphabet,
)
from regrow.tokenizers.candidates import MergeParts, Reason, TokenizerModel
from regrow.tokenizers.merges import BPE, last_merges, last_merges_by_score, read_bpe
from regrow.tokenizers.sentencepiece_model import Piece

Json = dict[str, Any]


def read_byte_level(tokenizer_json: Json, pieces: Sequence[Piece] = ()) -> TokenizerModel:
    """The model of a byte-level BPE tokenizer.

    Raises:
        UserError: the tokenizer is inconsistent or not plain BPE.
    """
    bpe = read_bpe(tokenizer_json)
    missing = BYTE_ALPHABET.difference(bpe.vocab)
    if missing and tokenizer_json["model"].get("byte_fallback"):
        raise UserError(
            f"tokenizer.json: model.byte_fallback, but {min(missing)!r} has no token; "
            "only a byte-level BPE with one or the other can be pruned"
        )
    if missing and bpe.unk is not None and len(bpe.unk) > 1:
        _check_apart(bpe, [bpe.unk])
    required = _required(bpe, BYTE_ALPHABET, "byte")
    parts = last_merges(bpe)
    return _model(tokenizer_json, bpe, required, parts, parts, to_byte_level)


def read_sentencepiece(tokenizer_json: Json, pieces: Sequence[Piece] = ()) -> TokenizerModel:
    """The model of a SentencePiece BPE tokenizer.

    Args:
        tokenizer_json: the contents of the file.
        pieces: of the ``.model`` in the same directory, if there is one.

    Raises:
        UserError: the tokenizer is inconsistent or not plain BPE.
    """
    bpe = read_bpe(tokenizer_json)
    if bpe.unk is not None:
        _check_apart(bpe, [bpe.unk])
    if has_byte_fallback(tokenizer_json):
        _check_apart(bpe, BYTE_TOKENS)
        required = _required(bpe, frozenset(SPACE), "byte")
        for byte in BYTE_TOKENS:
            required.setdefault(bpe.vocab[byte], "byte")
    else:
        # Without an unknown token, a dropped character would be lost without a trace.
        reason: Reason = "byte" if bpe.unk is None else "character"
        required = _required(bpe, frozenset().union(*bpe.vocab), reason)

    parts = last_merges(bpe)
    both: dict[int, tuple[int, ...]] = dict(parts)
    scores = {piece.content: piece.score for piece in pieces if piece.is_text}
    for content, pair in last_merges_by_score(scores).items():
        token = bpe.vocab[content]
        own = (bpe.vocab[part] for part in pair if part in bpe.vocab)
        both[token] = tuple(dict.fromkeys([*both.get(token, ()), *own]))
    return _model(tokenizer_json, bpe, required, parts, both, to_sentencepiece)


def _check_apart(bpe: BPE, symbols: Sequence[str]) -> None:
    """Raise UserError if a symbol for what has no token is part of a merge."""
    merged = {part for pair in bpe.merges for part in pair}
    for symbol in symbols:
        if symbol in merged:
            raise UserError(
                f"tokenizer.json: {symbol!r} is part of a merge, so what has no token merges with "
                "text; such a tokenizer cannot be pruned"
            )


def _required(bpe: BPE, alphabet: frozenset[str], reason: Reason) -> dict[int, Reason]:
    """The unknown token, and the tokens that are needed to write the alphabet."""
    required: dict[int, Reason] = {}
    if bpe.unk in bpe.vocab:
        required[bpe.vocab[bpe.unk]] = "special"
    # Without ignore_merges, a token with a symbol that is no token is never built.
    spelled = tokens_for_alphabet(bpe.vocab.keys(), alphabet) if bpe.ignore_merges else alphabet
    for content in spelled:
        if content in bpe.vocab:
            required.setdefault(bpe.vocab[content], reason)
    return required


def _model(
    tokenizer_json: Json,
    bpe: BPE,
    required: Mapping[int, Reason],
    built: Mapping[int, tuple[int, int]],
    parts: MergeParts,
    as_token: Callable[[str], str],
) -> TokenizerModel:
    content = {token: text for text, token in bpe.vocab.items()}
    never = set()
    if not bpe.ignore_merges:
        never = {i for i, text in content.items() if len(text) > 1 and i not in built}
    rank = {
        token: bpe.rank[content[left], content[right]] for token, (left, right) in built.items()
    }
    return TokenizerModel(
        required=required,
        parts=parts,
        unreachable=never,
        rank={token: rank.get(token, len(bpe.merges)) for token in content},
        as_token=as_token,
        prune=partial(_prune, tokenizer_json["model"], bpe, set(built)),
    )


def _prune(model: Json, bpe: BPE, built: set[int], mapping: Mapping[int, int]) -> dict[str, Any]:
    """``model`` with the tokens of ``mapping`` only.

    A merge stays if its parts and its product do and the original can emit the product.
    """
    vocab = {content: mapping[old] for content, old in bpe.vocab.items() if old in mapping}
    emitted = {c for c, old in bpe.vocab.items() if bpe.ignore_merges or old in built}
    merges = [
        merge
        for merge, (left, right) in zip(model["merges"], bpe.merges, strict=True)
        if left in vocab and right in vocab and left + right in vocab and left + right in emitted
    ]
    return {**model, "vocab": vocab, "merges": merges}
