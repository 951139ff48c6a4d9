"""The merges of BPE, and the path by which it builds each token."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from regrow.common.errors import UserError

Pair = tuple[str, str]

NEVER = float("inf")
"""The rank of a pair that is not merged."""


@dataclass(frozen=True)
class BPE:
    """The model of a BPE tokenizer.

    Attributes:
        vocab: id by token.
        merges: pairs as the file lists them, a pair listed twice included.
        rank: of each pair; if a pair is listed twice, its last place in ``merges``.
        unk: the unknown token, if there is one.
        ignore_merges: whether a piece of text that is a token is taken whole, without merges.
    """

    vocab: dict[str, int]
    merges: tuple[Pair, ...]
    rank: dict[Pair, int]
    unk: str | None
    ignore_merges: bool


def read_bpe(tokenizer_json: dict[str, Any]) -> BPE:
    """Read the model of a BPE tokenizer.

    Raises:
        UserError: a merge is no pair, its parts or product are no tokens, or a setting changes how
            BPE encodes.
    """
    model = tokenizer_json["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UserError(
                f"tokenizer.json: model.{key} is {model[key]!r}; "
                "only a BPE without it can be pruned"
            )
    vocab: dict[str, int] = model["vocab"]
    merges = tuple(_pair(merge, place) for place, merge in enumerate(model["merges"]))
    for place, (left, right) in enumerate(merges):
        for token in (left, right, left + right):
            if token not in vocab:
                raise UserError(
                    f"tokenizer.json: model.merges[{place}] needs {token!r}, which model.vocab "
                    "lacks; every part and product of a merge is a token"
                )
    return BPE(
        vocab=vocab,
        merges=merges,
        rank={pair: rank for rank, pair in enumerate(merges)},
        unk=model.get("unk_token"),
        ignore_merges=bool(model.get("ignore_merges")),
    )


def _pair(merge: str | list[str], place: int) -> Pair:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(parts):
        raise UserError(f"tokenizer.json: model.merges[{place}] is {merge!r}, not a pair of tokens")
    return parts[0], parts[1]


def last_merge(bpe: BPE, token: str) -> Pair | None:
    """The last merge when BPE encodes ``token`` alone; None if the result is not this one token.

    If several merges have the same product, this is the one that BPE takes. None for a single
    character, since there is nothing to merge.
    """
    return last_merge_by(lambda pair: bpe.rank.get(pair, NEVER), token)


def last_merge_by(rank: Callable[[Pair], float], token: str) -> Pair | None:
    """The last merge when ``token`` is encoded alone by merging the pair of least rank.

    Of pairs of equal rank, the leftmost is merged first. The same function gives the paths of the
    two parts (see :mod:`regrow.tokenizers.bpe`).

    Args:
        rank: of a pair; :data:`NEVER` if it is not merged.
        token: the text to encode.
    """
    parts = list(token)
    if len(parts) < 2:
        return None
    ranks = [rank(pair) for pair in pairwise(parts)]
    while len(parts) > 2:
        least = min(ranks)
        if least == NEVER:
            return None
        at = ranks.index(least)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del ranks[at]
        if at:
            ranks[at - 1] = rank((parts[at - 1], parts[at]))
        if at < len(ranks):
            ranks[at] = rank((parts[at], parts[at + 1]))
    return None if ranks[0] == NEVER else (parts[0], parts[1])


def last_merges(bpe: BPE) -> dict[int, tuple[int, int]]:
    """The ids of the two parts of the last merge, by the id of each token that BPE can build."""
    return {
        token: (bpe.vocab[pair[0]], bpe.vocab[pair[1]])
        for content, token in bpe.vocab.items()
        if (pair := last_merge(bpe, content)) is not None
    }


def last_merges_by_score(scores: Mapping[str, float]) -> dict[str, Pair]:
    """The last merge of each piece in the sentencepiece library; ``scores``: of all pieces of text.

    Its BPE has no list of merges. It merges any two symbols whose product is a piece: the pair of
    the highest score first, and of equal scores the leftmost (``bpe_model.cc``).
    """

    def rank(pair: Pair) -> float:
        return -scores.get(pair[0] + pair[1], -NEVER)

    found = {piece: last_merge_by(rank, piece) for piece in scores}
    return {piece: pair for piece, pair in found.items() if pair is not None}
