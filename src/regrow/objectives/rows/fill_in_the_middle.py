"""Fill-in-the-middle: documents reordered so that a decoder learns to fill gaps.

Bavarian et al. 2022, "Efficient training of language models to fill in the middle": half of the
documents are cut at two characters into prefix, middle and suffix, and the middle comes last; as
prefix, suffix, middle or, as often, as suffix, prefix, middle. All tokens are predicted. Cuts are
between characters, not tokens, so that a model can go on from within a word; and a document that
would not fit in a row is made several, so that no row holds a gap without what fills it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regrow.common.errors import UserError
from regrow.corpus.packing import Tokenizer, end_is_predicted, start_and_end, tokenise
from regrow.objectives.rows.random_segmentation import random_bits, sample_keys

MARKS = (
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),
    ("▁<PRE>", "▁<SUF>", "▁<MID>"),
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # noqa: RUF001 - DeepSeek's own
)
"""What marks prefix, suffix and middle: StarCoder's, Qwen's, SantaCoder's, Code Llama's and
DeepSeek's names. A tokenizer that has none is given the first."""

RATE = 0.5
"""Of the documents, those that are reordered."""
_ALONE = "☺"
_SPARE = 16
"""Tokens by which parts that are tokenised apart may grow, with the three marks and the start."""


@dataclass(frozen=True)
class InfillingTokens:
    """The ids of the three marks."""

    prefix: int
    suffix: int
    middle: int


def infilling_tokens(tokenizer: Tokenizer) -> InfillingTokens:
    """The marks, by name. Raises UserError where the tokenizer has none, or no offsets."""
    named = tokenizer.name_or_path or "tokenizer"
    ids: Mapping[str, int] = tokenizer.get_vocab()
    found = next((names for names in MARKS if all(name in ids for name in names)), None)
    if found is None:
        raise UserError(f"{named}: no marks to fill in the middle with, such as {MARKS[0][0]}")
    if not tokenizer.is_fast:
        raise UserError(
            f"{named}: does not say where its tokens stand in a text; fill-in-the-middle needs a "
            "tokenizer with a tokenizer.json"
        )
    return InfillingTokens(*(ids[name] for name in found))


def reordered(
    documents: Iterable[str], tokenizer: Tokenizer, row_length: int, seed: int
) -> Iterator[NDArray[np.int32]]:
    """The token ids of documents, of which `RATE` are made to fill a gap; [tokens] each.

    What is drawn for a document depends on the seed and its number. A document that is not
    reordered is as `tokenise` has it. Where a tokenizer's ``eos`` is not predicted otherwise, it is
    part of what fills a gap: a model has to learn where to stop.
    """
    marks = infilling_tokens(tokenizer)
    end = () if end_is_predicted(tokenizer) else (start_and_end(tokenizer)[1],)
    longest = max(row_length - _SPARE, 2)
    for number, text in enumerate(documents):
        drawn = _Drawn(seed, number)
        if drawn.part() >= RATE:
            yield from tokenise([text], tokenizer)
            continue
        for piece in _pieces(text, tokenizer, longest):
            first, second = sorted(drawn.below(len(piece) + 1) for _ in range(2))
            parts = (piece[:first], piece[second:], piece[first:second])
            prefix, suffix, middle = _apart(parts, tokenizer)
            line: list[ArrayLike]
            if drawn.part() < 0.5:
                line = [[marks.prefix], prefix, [marks.suffix], suffix, [marks.middle], middle]
            else:
                line = [[marks.prefix, marks.suffix], suffix, [marks.middle], prefix, middle]
            yield np.concatenate([*line, end]).astype(np.int32)


def _apart(parts: Sequence[str], tokenizer: Any) -> list[NDArray[np.int32]]:
    """The tokens of parts of a text, the first of which begins it.

    Some tokenizers put a space before every text (Llama's): there the others are read after a
    character that nothing merges with, and its tokens are left out, as Code Llama has it.
    """
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    if not str(first[0]).startswith("▁"):
        return list(tokenise(parts, tokenizer))
    alone, before, *after = tokenise(
        [parts[0], _ALONE, *(_ALONE + part for part in parts[1:])], tokenizer
    )
    return [alone, *(ids[len(before) :] for ids in after)]


def _pieces(text: str, tokenizer: Any, longest: int) -> list[str]:
    """A text cut between tokens into as few pieces as do, of like numbers of tokens."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    starts = [start for start, _ in encoded["offset_mapping"]]
    count = -(-len(starts) // longest)
    if count <= 1:
        return [text] if text else []
    cuts = [starts[number * len(starts) // count] for number in range(1, count)]
    edges = [0, *cuts, len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


class _Drawn:
    """Random numbers of one document, in order."""

    def __init__(self, seed: int, document: int) -> None:
        self._key = sample_keys(seed, "fill in the middle", np.array([document]))
        self._number = 0

    def part(self) -> float:
        """At least 0 and below 1."""
        bits = random_bits(self._key, np.array([self._number]))[0]
        self._number += 1
        return int(bits >> np.uint64(11)) * 2.0**-53

    def below(self, bound: int) -> int:
        return int(self.part() * bound)
