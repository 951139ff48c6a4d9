"""A smaller vocabulary for byte-level BPE that encodes what it kept as before.

Three guarantees hold for a set of kept tokens that contains every single-byte token, every special
and added token, the unknown token, and, with each token that BPE can build, the tokens on the path
by which it builds it:

1. A text whose original encoding uses kept tokens only is encoded to the same tokens, renumbered.
2. The encoding of any other text decodes to the same text as the original encoding did.
3. No text is encoded to a token that the original never emits, whose embedding was never trained.

Proof. Added tokens, normalizer and pre-tokenizer do not change, so it is enough to look at one
piece of text between them. BPE starts from its bytes and takes, as long as there is a known pair,
the one of least (rank, position).

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
guarantee 1 claims nothing, and its bytes are merged as above; a token with a byte that no token
spells could not be spelled so, and is kept. A piece that is no token is as above. So a token that
BPE cannot build may be kept without a path.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.errors import UserError
from regrow.tokenizers.choice import Reason, VocabularyChoice, mapping_of
from regrow.tokenizers.merges import BYTE_ALPHABET, ByteBPE, last_merges, read_byte_bpe
from regrow.tokenizers.surgery import referenced, renumber, token_ids

Parts = Mapping[int, tuple[int, int]]


def select(
    tokenizer_json: dict[str, Any],
    counts: NDArray[np.int64],
    size: int,
    must_keep: Mapping[int, str],
) -> VocabularyChoice:
    """Choose exactly ``size`` tokens: those that must stay, then the most frequent.

    Each token comes with the path of merges to it; one whose path does not fit into the room that
    is left is passed over for the next that fits. Equal counts are broken by the rank of the merge
    that builds the token. Tokens that no text is encoded to come last.

    One pass is enough for the exact size: what a later choice adds shortens the path of a token
    passed over by at most as much as it takes from the room, so that token never fits later; and
    while a token is left out, the shortest such needs nothing but itself, and so fits.

    Args:
        tokenizer_json: the contents of the file.
        counts: occurrences by id, shape [largest id + 1].
        size: the number of tokens to keep.
        must_keep: by id, where else it is named, such as "config.json: eos_token_id".

    Raises:
        UserError: ``size`` is below what must stay or above the vocabulary, ``counts`` is of
            another tokenizer, ``must_keep`` has an id that no token has, or the tokenizer is
            inconsistent.
    """
    bpe = read_byte_bpe(tokenizer_json)
    known = set(token_ids(tokenizer_json).values())
    rows = max(known, default=-1) + 1
    if counts.shape != (rows,):
        raise UserError(
            f"token counts: {len(counts):,} entries, but the tokenizer has ids up to {rows - 1:,}; "
            "count with the tokenizer that is pruned"
        )
    for token, where in must_keep.items():
        if token not in known:
            raise UserError(f"{where} is {token}, but tokenizer.json has no token of that id")
    if size > len(known):
        raise UserError(f"vocabulary size {size:,} is above the {len(known):,} tokens there are")

    parts = last_merges(bpe)
    reasons = _required(bpe, referenced(tokenizer_json), must_keep)
    for token in list(reasons):
        for ancestor in _missing_path(token, parts, reasons):
            reasons[ancestor] = "merge ancestor"
    if size < len(reasons):
        tally = ", ".join(f"{n:,} {reason}" for reason, n in Counter(reasons.values()).items())
        raise UserError(
            f"vocabulary size {size:,} is too small: the least is {len(reasons):,}, "
            f"since these must stay: {tally}"
        )

    for token in _by_priority(bpe, parts, counts, known):
        room = size - len(reasons)
        if room == 0:
            break
        if token in reasons:
            if reasons[token] == "merge ancestor":
                reasons[token] = "count"
            continue
        path = _missing_path(token, parts, reasons)
        if len(path) < room:
            reasons |= dict.fromkeys(path, "merge ancestor")
            reasons[token] = "count"
    kept = sorted(reasons)
    return VocabularyChoice(np.array(kept, dtype=np.int64), tuple(reasons[i] for i in kept))


def prune_tokenizer_json(tokenizer_json: dict[str, Any], kept: NDArray[np.int64]) -> dict[str, Any]:
    """The contents of ``tokenizer.json`` with the ``kept`` tokens only.

    New ids are dense, from 0, in ascending order of the old ones. A merge stays if its parts and
    its product do and the original can emit the product. Ids are changed in ``added_tokens``,
    ``post_processor`` and ``padding`` too.

    Args:
        tokenizer_json: the contents of the file; it is not changed.
        kept: old ids, ascending, such as :func:`select` chooses.

    Raises:
        UserError: ``kept`` is not ascending, has an id that no token has, or lacks a token without
            which the guarantees of this module do not hold.
    """
    bpe = read_byte_bpe(tokenizer_json)
    parts = last_merges(bpe)
    _check_kept(bpe, parts, tokenizer_json, kept)
    mapping = mapping_of(kept)
    vocab = {content: mapping[old] for content, old in bpe.vocab.items() if old in mapping}
    emitted = {c for c, old in bpe.vocab.items() if bpe.ignore_merges or old in parts}
    model = tokenizer_json["model"]
    merges = [
        merge
        for merge, (left, right) in zip(model["merges"], bpe.merges, strict=True)
        if left in vocab and right in vocab and left + right in vocab and left + right in emitted
    ]
    return {
        **renumber(tokenizer_json, mapping),
        "model": {**model, "vocab": vocab, "merges": merges},
    }


def _required(
    bpe: ByteBPE, special: Mapping[int, Reason], must_keep: Mapping[int, str]
) -> dict[int, Reason]:
    """The tokens that must stay, without their paths."""
    reasons = dict(special)
    if bpe.unk is not None and bpe.unk in bpe.vocab:
        reasons[bpe.vocab[bpe.unk]] = "special"
    for token in must_keep:
        reasons.setdefault(token, "config")
    missing = bpe.missing_bytes()
    for content, token in bpe.vocab.items():
        only_spelling = bpe.ignore_merges and not missing.isdisjoint(content)
        if content in BYTE_ALPHABET or only_spelling:
            reasons.setdefault(token, "byte")
    return reasons


def _missing_path(token: int, parts: Parts, kept: Mapping[int, Reason]) -> set[int]:
    """The tokens on the path to ``token``, without itself, that are not kept yet."""
    path: set[int] = set()
    todo = [token]
    while todo:
        for part in parts.get(todo.pop(), ()):
            if part not in kept and part not in path:
                path.add(part)
                todo.append(part)
    return path


def _by_priority(
    bpe: ByteBPE, parts: Parts, counts: NDArray[np.int64], known: set[int]
) -> list[int]:
    """All ids, those to keep first at the front."""
    content = {token: text for text, token in bpe.vocab.items()}

    def priority(token: int) -> tuple[bool, int, int, int]:
        reached = token in parts or bpe.ignore_merges or len(content.get(token, "")) == 1
        rank = len(bpe.merges)
        if token in parts:
            left, right = parts[token]
            rank = bpe.rank[content[left], content[right]]
        return not reached, -int(counts[token]), rank, token

    return sorted(known, key=priority)


def _check_kept(
    bpe: ByteBPE, parts: Parts, tokenizer_json: dict[str, Any], kept: NDArray[np.int64]
) -> None:
    if np.any(np.diff(kept) <= 0):
        raise UserError("kept tokens: the ids are not ascending")
    content = {token: text for text, token in token_ids(tokenizer_json).items()}
    chosen = set(kept.tolist())
    if unknown := chosen - content.keys():
        raise UserError(f"kept tokens: tokenizer.json has no token of id {min(unknown)}")
    for token, reason in _required(bpe, referenced(tokenizer_json), {}).items():
        if token not in chosen:
            raise UserError(
                f"kept tokens: {content[token]!r} (id {token}) is missing, which must stay "
                f"({reason})"
            )
    for token in kept.tolist():
        for part in parts.get(token, ()):
            if part not in chosen:
                raise UserError(
                    f"kept tokens: {content[part]!r} (id {part}) is missing, without which "
                    f"{content[token]!r} (id {token}) cannot be built"
                )
