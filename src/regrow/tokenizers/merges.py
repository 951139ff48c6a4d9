"""Byte-level BPE as data: its merges, and the path by which it builds each token."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from regrow.errors import UserError

Pair = tuple[str, str]

_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
BYTE_ALPHABET = frozenset(
    [chr(b) for b in _PRINTABLE] + [chr(0x100 + n) for n in range(0x100 - len(_PRINTABLE))]
)
"""The 256 characters that stand for bytes (Radford et al. 2019, section 2.2, as GPT-2 has them)."""


@dataclass(frozen=True)
class ByteBPE:
    """The model of a byte-level BPE tokenizer.

    Attributes:
        vocab: id by token.
        merges: pairs as the file lists them, a pair listed twice included.
        rank: the rank that counts for each pair: its last place in ``merges``.
        unk: the token for a byte that the vocabulary lacks, if there is one.
        ignore_merges: a piece of text that is a token is not built by merges.
    """

    vocab: dict[str, int]
    merges: tuple[Pair, ...]
    rank: dict[Pair, int]
    unk: str | None
    ignore_merges: bool

    def missing_bytes(self) -> frozenset[str]:
        """The bytes that no token spells, as characters of the alphabet."""
        return BYTE_ALPHABET.difference(self.vocab)


def read_byte_bpe(tokenizer_json: dict[str, Any]) -> ByteBPE:
    """Read the model of a tokenizer that is known to be byte-level BPE.

    Raises:
        UserError: a merge that is no pair or whose parts or product are no tokens, or a setting
            under which the encoding is not plain BPE.
    """
    model = tokenizer_json["model"]
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise UserError(
                f"tokenizer.json: model.{key} is {model[key]!r}; "
                "only a byte-level BPE without it can be pruned"
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
    bpe = ByteBPE(
        vocab=vocab,
        merges=merges,
        rank={pair: rank for rank, pair in enumerate(merges)},
        unk=model.get("unk_token"),
        ignore_merges=bool(model.get("ignore_merges")),
    )
    if (
        bpe.unk is not None
        and len(bpe.unk) > 1
        and bpe.missing_bytes()
        and any(bpe.unk in pair for pair in merges)
    ):
        raise UserError(
            f"tokenizer.json: model.unk_token {bpe.unk!r} is part of a merge, "
            "so unknown bytes merge with text; such a tokenizer cannot be pruned"
        )
    return bpe


def _pair(merge: str | list[str], place: int) -> Pair:
    parts = merge.split(" ") if isinstance(merge, str) else merge
    if len(parts) != 2 or not all(parts):
        raise UserError(f"tokenizer.json: model.merges[{place}] is {merge!r}, not a pair of tokens")
    return parts[0], parts[1]


def last_merge(bpe: ByteBPE, token: str) -> Pair | None:
    """The last merge when BPE encodes ``token`` alone, or None if the outcome is not one token.

    BPE merges the pair of least rank, the leftmost first. Where several merges produce the same
    token, this is the one really taken. The paths to its two parts are found in the same way (see
    :mod:`regrow.tokenizers.byte_bpe`). None for a single character: there is nothing to merge.
    """
    parts = list(token)
    if len(parts) < 2:
        return None
    rank = bpe.rank
    never = len(bpe.merges)
    ranks = [rank.get(pair, never) for pair in pairwise(parts)]
    while len(parts) > 2:
        least = min(ranks)
        if least == never:
            return None
        at = ranks.index(least)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
        del ranks[at]
        if at:
            ranks[at - 1] = rank.get((parts[at - 1], parts[at]), never)
        if at < len(ranks):
            ranks[at] = rank.get((parts[at], parts[at + 1]), never)
    pair = parts[0], parts[1]
    return pair if pair in rank else None


def last_merges(bpe: ByteBPE) -> dict[int, tuple[int, int]]:
    """The ids of the two parts of the last merge, by the id of each token that BPE can build."""
    return {
        token: (bpe.vocab[pair[0]], bpe.vocab[pair[1]])
        for content, token in bpe.vocab.items()
        if (pair := last_merge(bpe, content)) is not None
    }
