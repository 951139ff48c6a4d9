"""Fill-in-the-middle: documents reordered so that a decoder learns to fill gaps.

Bavarian et al. 2022, "Efficient training of language models to fill in the middle". Half of the
documents are cut at two characters into prefix, middle and suffix, and the middle is moved to the
end. Half of these become prefix, suffix, middle, the others suffix, prefix, middle. All tokens are
predicted.

The cuts are between characters and not between tokens, so that a model can also continue from
within a word. A document that is longer than a row is first divided into several. A document that
is reordered is never cut by the end of a row, so a row always holds a gap together with its middle.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from regrow.common.errors import UserError
from regrow.corpus.encoding import TextWithSpecialTokens, Tokenizer
from regrow.corpus.packing import end_is_predicted, start_and_end, tokenise, tokenise_with_spans
from regrow.corpus.samples import Samples
from regrow.corpus.sources import Texts, rows_of
from regrow.corpus.token_store import TokenStore
from regrow.corpus.whole_documents import Document, pack_documents
from regrow.objectives.rows.random_segmentation import random_bits, sample_keys
from regrow.objectives.special_tokens import INFILLING_TOKENS

REORDERED_SHARE = 0.5
"""The share of the documents that is reordered."""
_SEPARATOR = "☺"
_SPACES = ("▁", "Ġ")
"""Signs for a space, of SentencePiece and of byte-level tokenizers."""
_SPARE_TOKENS = 16
"""Room in a row for the three special tokens, the start token, and the tokens by which three parts
that are tokenised separately are longer than the whole."""


@dataclass(frozen=True)
class InfillingTokens:
    """The ids of the special tokens that stand before prefix, suffix and middle."""

    prefix: int
    suffix: int
    middle: int


def infilling_tokens(tokenizer: Tokenizer) -> InfillingTokens:
    """The first complete set of `INFILLING_TOKENS` in a tokenizer.

    Raises UserError if the tokenizer has none, or cannot give the character offsets of its tokens.
    """
    named = tokenizer.name_or_path or "tokenizer"
    ids: Mapping[str, int] = tokenizer.get_vocab()
    found = next((names for names in INFILLING_TOKENS if all(n in ids for n in names)), None)
    if found is None:
        raise UserError(
            f"{named}: no marks to fill in the middle with, such as {INFILLING_TOKENS[0][0]}"
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"{named}: does not say where its tokens stand in a text; fill-in-the-middle needs a "
            "tokenizer with a tokenizer.json"
        )
    return InfillingTokens(*(ids[name] for name in found))


def infilling_rows(texts: Texts, tokenizer: Any, row_length: int, seed: int) -> Samples:
    """Packed rows of documents, of which `REORDERED_SHARE` are reordered.

    Documents of a token store are decoded first.
    Raises UserError if the tokenizer or the text does not fit.
    """

    def of_text(documents: Iterable[str]) -> Samples:
        found = reorder_documents(documents, tokenizer, row_length, seed)
        return pack_documents(found, tokenizer, row_length)

    def of_store(store: TokenStore) -> Samples:
        return of_text(
            TextWithSpecialTokens(
                tokenizer.decode(store.text(number).tolist(), clean_up_tokenization_spaces=False)
            )
            for number in range(len(store))
        )

    return rows_of(texts, tokenizer, of_text, of_store)


def reorder_documents(
    documents: Iterable[str], tokenizer: Tokenizer, row_length: int, seed: int
) -> Iterator[Document]:
    """Documents of which `REORDERED_SHARE` are reordered, and then whole: they fit into a row.

    Random numbers of a document depend on the seed and the index of the document. A document that
    is not reordered has the ids that `tokenise` gives. If the tokenizer's ``eos`` would not be
    predicted otherwise, it is added after the middle, because a model has to learn where to stop.
    """
    special_tokens = infilling_tokens(tokenizer)
    prefix_token, suffix_token, middle_token = (
        [special_tokens.prefix], [special_tokens.suffix], [special_tokens.middle],
    )  # fmt: skip
    end = () if end_is_predicted(tokenizer) else (start_and_end(tokenizer)[1],)
    longest = max(row_length - _SPARE_TOKENS, 2)
    for number, text in enumerate(documents):
        random = _RandomNumbers(seed, number)
        if random.uniform() >= REORDERED_SHARE:
            yield from _in_order(text, tokenizer)
            continue
        for piece in _pieces(text, tokenizer, longest):
            first, second = sorted(random.below(len(piece) + 1) for _ in range(2))
            parts = (piece[:first], piece[second:], piece[first:second])
            prefix, suffix, middle = _tokenise_separately(parts, tokenizer)
            line: list[ArrayLike]
            if random.uniform() < 0.5:
                line = [prefix_token, prefix, suffix_token, suffix, middle_token, middle]
            else:
                line = [prefix_token, suffix_token, suffix, middle_token, prefix, middle]
            ids = np.concatenate([*line, end]).astype(np.int32)
            found = Document(ids, is_whole=True)
            if found.slots <= row_length:
                yield found
            else:  # parts that are tokenised separately may have any number of tokens
                yield from _in_order(piece, tokenizer)


def _in_order(text: str, tokenizer: Tokenizer) -> Iterator[Document]:
    for ids in tokenise([text], tokenizer):
        yield Document(ids, is_whole=False)


def _tokenise_separately(parts: Sequence[str], tokenizer: Any) -> list[NDArray[np.int32]]:
    """The token ids of each part of a text; the first part is the beginning of the text.

    Some tokenizers (Llama's, and byte-level ones with `add_prefix_space`) put a space before every
    text. With these, the other parts are tokenised after a character that merges with nothing, and
    its tokens are then removed, as in Code Llama.
    """
    first = tokenizer.convert_ids_to_tokens(tokenizer("a", add_special_tokens=False)["input_ids"])
    if not str(first[0]).startswith(_SPACES):
        return list(tokenise(parts, tokenizer))
    kind = type(parts[0])
    beginning, separator, *others = tokenise(
        [parts[0], _SEPARATOR, *(kind(_SEPARATOR + part) for part in parts[1:])], tokenizer
    )
    return [beginning, *(ids[len(separator) :] for ids in others)]


def _pieces(text: str, tokenizer: Any, longest: int) -> list[str]:
    """A text cut between tokens into pieces of `longest` tokens, of which the last has the rest.

    So that few slots stay empty: of two equal pieces, each might need a row.
    """
    starts = tokenise_with_spans(text, tokenizer).spans[:, 0].tolist()
    edges = [0, *starts[longest::longest], len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


class _RandomNumbers:
    """The sequence of random numbers of one document."""

    def __init__(self, seed: int, document: int) -> None:
        self._key = sample_keys(seed, "fill in the middle", np.array([document]))
        self._drawn = 0

    def uniform(self) -> float:
        """At least 0 and below 1."""
        bits = random_bits(self._key, np.array([self._drawn]))[0]
        self._drawn += 1
        return int(bits >> np.uint64(11)) * 2.0**-53

    def below(self, bound: int) -> int:
        """At least 0 and below `bound`."""
        return int(self.uniform() * bound)
