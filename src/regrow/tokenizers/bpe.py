"""A smaller vocabulary for BPE that encodes what it kept as before.

Three guarantees hold for a set of kept tokens that contains every token that spells a byte, every
special and added token, the unknown token, and, with each token that BPE can build, the tokens on
the path by which it builds it:

1. A text whose original encoding uses kept tokens only is encoded to the same tokens, renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.
3. No text is encoded to a token that the original never emits, whose embedding was never trained.

Proof. Added tokens, normalizer and pre-tokenizer do not change, so it is enough to look at one
piece of text between them. BPE starts from its symbols, which are bytes or characters, and takes,
as long as there is a known pair, the one of least (rank, position).

*Paths are nested.* Let ``t`` be a token that occurs while ``w`` is encoded, and ``s`` the stretch
of ``w`` that it covers. Until ``t`` is there no merge crosses a border of ``s``, and merges outside
``s`` change nothing in it, so the merges inside ``s`` are each the least within ``s``: they are the
merges of ``s`` encoded alone. So a token is built by one path, the same in every text; the paths to
its parts are pieces of it; and a token that is not built alone is built nowhere.

*Guarantee 1.* By the above, all merges that the original takes in ``w`` lie on paths to kept
tokens, so their parts and products are kept. Let the pruned tokenizer have any subset of the old
merges, in their old order, that contains those. At each step its known pairs are a subset of the
original's that contains the least one, so it takes the same; at the end the original knows no pair,
so it knows none either.

*Guarantee 2.* Merging concatenates, and all that spells a byte, or stands for a missing one, is
kept, so what the symbols spell is the same at the start and after any merges.

*Which merges stay.* Guarantee 1 allows every merge whose parts and product are kept. One that leads
off the path to a token that BPE can build stays and never fires: the pruned tokenizer builds that
token by one path too, and by guarantee 1 it is the old one. One that leads to a token that the
original BPE cannot build may come to fire when merges that were in its way are gone. Under
``ignore_merges`` that token was emitted for whole pieces and was trained, and text that lost tokens
gets shorter by it: the merge stays. Otherwise guarantee 3 forbids it: the merge goes.

*ignore_merges.* A piece that is itself a token is taken whole. If it is kept, it still is. If not,
guarantee 1 claims nothing, and its symbols are merged as above; a token with a symbol that no token
spells could not be spelled so, and is kept. A piece that is no token is as above. So a token that
BPE cannot build may be kept without a path.

*Characters.* SentencePiece's BPE starts from characters. One that is no token becomes the tokens of
its UTF-8 bytes, or the unknown token; neither merges, or the tokenizer is refused. A kept token has
its characters on its path, so guarantee 1 stands. With all 256 bytes, whatever loses its character
is spelled by bytes, and guarantee 2 stands; only the space has a sign of its own that bytes do not
become again, and is kept. Without the bytes all characters have to be kept for it.

*sentencepiece itself* has no list of merges. It takes any pair that spells a piece, in the order of
(score of the piece, position). That is an order as above, with paths of its own, which can differ
where two ways lead to one piece; both are kept. A kept piece that it cannot build is no longer text
to it, as its merge is gone from the list.
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
    """The model of a tokenizer that is known to be byte-level BPE.

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
    """The model of a tokenizer that is known to be BPE of characters.

    Args:
        tokenizer_json: the contents of the file.
        pieces: those of the ``.model`` beside it, if there is one.

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
        # Without an unknown token there would be no sign that a character was there.
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
    """Raise UserError where a symbol that stands for what has no token merges with text."""
    merged = {part for pair in bpe.merges for part in pair}
    for symbol in symbols:
        if symbol in merged:
            raise UserError(
                f"tokenizer.json: {symbol!r} is part of a merge, so what has no token merges with "
                "text; such a tokenizer cannot be pruned"
            )


def _required(bpe: BPE, alphabet: frozenset[str], reason: Reason) -> dict[int, Reason]:
    """The unknown token, those of the alphabet, and those with a symbol that no token spells."""
    required: dict[int, Reason] = {}
    if bpe.unk in bpe.vocab:
        required[bpe.vocab[bpe.unk]] = "special"
    # Without ignore_merges, a token with a symbol that no token spells is never built.
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
