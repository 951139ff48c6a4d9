"""Documents one after the other as one stream, and the pieces of them in stretches of the stream.

Positions in the stream are slots. Each document begins with a fixed number of slots that hold no
text: room for the tokens that an objective adds to each document, such as prefixes and sentinels.
So all stretches of the same number of slots fit into rows of the same length.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer
from regrow.corpus.number_buffer import NumberBuffer
from regrow.corpus.packing import tokenise
from regrow.corpus.token_store import TokenStore

Ids = NDArray[np.int64]

_NONE: Ids = np.empty(0, dtype=np.int64)
_AT_ONCE = 1 << 18
"""Documents of a store whose lengths are read at once."""


@dataclass(frozen=True)
class Pieces:
    """Documents or parts of documents, stretch after stretch; arrays of shape [pieces].

    Attributes:
        stretches: The number of the stretch that each piece is in, ascending.
        starts: Where its tokens begin in the array of tokens.
        lengths: The number of its tokens, at least 1.
    """

    stretches: Ids
    starts: Ids
    lengths: Ids

    @cached_property
    def numbers(self) -> Ids:
        """The place of each piece within its stretch, from 0."""
        places = np.arange(len(self.stretches))
        return places - np.searchsorted(self.stretches, self.stretches)


@dataclass(frozen=True, eq=False)
class DocumentStream:
    """Documents with at least one token each, in order.

    Attributes:
        tokens: Of all documents, with their end tokens, [tokens].
        starts_of: Where each of these documents begins in `tokens`; past the last one, where that
            ends.
        ended: Whether each document ends with an end token, which is not text.
        skipped: For each document without text, in order: how many documents with text are before
            it.
        documents: The number of documents with text.
        slots_each: The number of slots before the text of each document.
        identity: A hash of all tokens and of where documents begin.
    """

    tokens: NDArray[Any]
    starts_of: Callable[[Ids], Ids]
    ended: bool
    skipped: Ids
    documents: int
    slots_each: int
    identity: str

    @cached_property
    def slots(self) -> int:
        """All slots of the stream: those of text, and those before each text."""
        return int(self._slots_before(np.array([self.documents]))[0])

    @cached_property
    def text_tokens(self) -> int:
        """All tokens of text, without end tokens."""
        return self.slots - self.slots_each * self.documents

    def pieces(self, firsts: Ids, stops: Ids) -> Pieces:
        """The pieces of documents in some stretches of the stream.

        A stretch that begins or ends in the slots before a text has all or nothing of that text.

        Args:
            firsts: the first slot of each stretch, [stretches].
            stops: the slot after its last, [stretches]. Each stretch has more slots than there are
                before a text.
        """
        first, first_offsets = self._locate(firsts)
        last, last_offsets = self._locate(stops)
        counts = last - first + (last_offsets > 0)
        ends = np.cumsum(counts)
        stretches = np.repeat(np.arange(len(firsts)), counts)
        documents = np.arange(len(stretches)) + np.repeat(first - ends + counts, counts)
        starts, before = self._text(documents)
        _, after = self._text(documents + 1)
        begins, stops_at = np.zeros_like(starts), after - before
        begins[ends - counts] = first_offsets
        cut = last_offsets > 0
        stops_at[ends[cut] - 1] = last_offsets[cut]
        return Pieces(stretches, starts + begins, stops_at - begins)

    def text_lengths(self, firsts: Ids, stops: Ids) -> Ids:
        """Tokens of text in each stretch, [stretches]; see `pieces`."""
        return self._text_before(stops) - self._text_before(firsts)

    def _text_before(self, slots: Ids) -> Ids:
        documents, offsets = self._locate(slots)
        return self._text(documents)[1] + offsets

    def _text(self, documents: Ids) -> tuple[Ids, Ids]:
        """Where documents begin in `tokens`, and how many tokens of text are before them."""
        numbers = documents + np.searchsorted(self.skipped, documents, side="right")
        starts = self.starts_of(numbers)
        return starts, starts - numbers if self.ended else starts

    def _slots_before(self, documents: Ids) -> Ids:
        return self._text(documents)[1] + self.slots_each * documents

    def _locate(self, slots: Ids) -> tuple[Ids, Ids]:
        """The document that each slot is in, and the tokens of its text before the slot."""
        low, high = np.zeros_like(slots), np.full_like(slots, self.documents)
        for _ in range(self.documents.bit_length()):
            middle = (low + high + 1) // 2
            is_before = self._slots_before(middle) <= slots
            low, high = np.where(is_before, middle, low), np.where(is_before, high, middle - 1)
        return low, np.maximum(slots - self._slots_before(low) - self.slots_each, 0)


def stream_of_tokens(
    tokens: NDArray[Any], bounds: Ids, slots_each: int, *, ended: bool
) -> DocumentStream:
    """A stream of tokens in memory.

    `bounds`: where each document begins, and where the last one ends, [documents + 1]. All
    documents have text. `ended`: whether each ends with an end token.
    """
    digest = hashlib.sha256(f"line {len(tokens)} {ended}\0".encode())
    digest.update(tokens.astype("<i4").data)
    digest.update(bounds.astype("<i8").data)
    identity = digest.hexdigest()
    return DocumentStream(
        tokens, bounds.__getitem__, ended, _NONE, len(bounds) - 1, slots_each, identity
    )


def stream_of_text(
    documents: Iterable[str], tokenizer: Tokenizer, slots_each: int
) -> DocumentStream:
    """A stream of the documents that hold text, each followed by the tokenizer's ``eos``."""
    tokens, bounds = NumberBuffer(np.int32), NumberBuffer(np.int64)
    bounds.append(0)
    for ids in tokenise(documents, tokenizer):
        if len(ids):
            tokens.extend(ids)
            tokens.append(tokenizer.eos_token_id)
            bounds.append(len(tokens))
    return stream_of_tokens(tokens.numbers(), bounds.numbers(), slots_each, ended=True)


def stream_of_store(store: TokenStore, slots_each: int) -> DocumentStream:
    """A stream of the documents of a store that hold text.

    Reads the index once, and no tokens.

    Raises UserError if the index is corrupt, or a document lacks its end token.
    """
    ended = store.end is not None
    empty = [_NONE]
    for first in range(0, len(store), _AT_ONCE):
        lengths = np.diff(store.bounds(first, min(first + _AT_ONCE, len(store))))
        if ended and not lengths.all():
            raise UserError(
                f"{store.path}: document {first + int(lengths.argmin())} is empty, where each "
                f"should end with token {store.end}"
            )
        empty.append(first + np.flatnonzero(lengths == ended))
    without = np.concatenate(empty)
    return DocumentStream(
        store.tokens, store.starts_of, ended, without - np.arange(len(without)),
        len(store) - len(without), slots_each, store.identity,
    )  # fmt: skip


def as_one_document(line: DocumentStream) -> DocumentStream:
    """All tokens of a stream, with the end tokens, as one document."""
    bounds = np.array([0, len(line.tokens)], dtype=np.int64)
    return DocumentStream(
        line.tokens, bounds.__getitem__, False, _NONE, 1, 0, f"undivided {line.identity}"
    )
