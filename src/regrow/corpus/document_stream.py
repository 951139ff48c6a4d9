"""Documents one after the other, and the pieces of them that lie in stretches of that line.

Each document begins with some slots that hold none of its text. So stretches of one length in slots
hold the more text, the fewer documents they are of: what an objective writes beside each document
has room in them.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus.packing import Tokenizer, tokenise
from regrow.corpus.token_store import TokenStore

Ids = NDArray[np.int64]

_NONE: Ids = np.empty(0, dtype=np.int64)
_AT_ONCE = 1 << 18
"""Documents of a store that are looked at at once."""


@dataclass(frozen=True)
class Pieces:
    """Documents, or parts of them, stretch after stretch; [pieces] each.

    Attributes:
        stretches: Which stretch each lies in, ascending.
        starts: Where its tokens begin.
        lengths: How many there are, at least 1.
    """

    stretches: Ids
    starts: Ids
    lengths: Ids

    @cached_property
    def numbers(self) -> Ids:
        """Of each piece in its stretch, from 0."""
        places = np.arange(len(self.stretches))
        return places - np.searchsorted(self.stretches, self.stretches)


@dataclass(frozen=True, eq=False)
class DocumentStream:
    """Documents that hold a token each, in order.

    Attributes:
        tokens: Of all documents, ends among them, [tokens].
        starts_of: Where each of these documents begins there; of as many as there are, where the
            last ends.
        ended: Whether each ends with a token that is not of its text.
        skipped: Of each document without text, in order, how many with text are before it.
        documents: That hold text.
        slots_each: That stand before the text of each.
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
        """In the line, of text and before it."""
        return int(self._slots_before(np.array([self.documents]))[0])

    @cached_property
    def text_tokens(self) -> int:
        return self.slots - self.slots_each * self.documents

    def pieces(self, firsts: Ids, stops: Ids) -> Pieces:
        """What lies in stretches of slots, [stretches] each; one that begins or ends before a text
        begins or ends where that text does.

        Each stretch is to be longer than what stands before a text.
        """
        first, first_offsets = self._places(firsts)
        last, last_offsets = self._places(stops)
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
        """Tokens of text in such stretches, [stretches]."""
        return self._text_before(stops) - self._text_before(firsts)

    def _text_before(self, slots: Ids) -> Ids:
        documents, offsets = self._places(slots)
        return self._text(documents)[1] + offsets

    def _text(self, documents: Ids) -> tuple[Ids, Ids]:
        """Where documents begin among the tokens, and how much text is before them."""
        numbers = documents + np.searchsorted(self.skipped, documents, side="right")
        starts = self.starts_of(numbers)
        return starts, starts - numbers if self.ended else starts

    def _slots_before(self, documents: Ids) -> Ids:
        return self._text(documents)[1] + self.slots_each * documents

    def _places(self, slots: Ids) -> tuple[Ids, Ids]:
        """The document that a slot lies in, and how much of its text is before the slot."""
        low, high = np.zeros_like(slots), np.full_like(slots, self.documents)
        for _ in range(self.documents.bit_length()):
            middle = (low + high + 1) // 2
            is_before = self._slots_before(middle) <= slots
            low, high = np.where(is_before, middle, low), np.where(is_before, high, middle - 1)
        return low, np.maximum(slots - self._slots_before(low) - self.slots_each, 0)


def stream_of_tokens(
    tokens: NDArray[Any], bounds: Ids, slots_each: int, *, ended: bool
) -> DocumentStream:
    """`bounds`: where each document begins, all with text, and where the last ends."""
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
    """Documents that hold text, each followed by the tokenizer's end."""
    end = np.array([tokenizer.eos_token_id], dtype=np.int32)
    held = [ids for ids in tokenise(documents, tokenizer) if len(ids)]
    parts = [part for ids in held for part in (ids, end)]
    tokens = np.concatenate([*parts, np.empty(0, dtype=np.int32)])
    bounds = np.cumsum([0, *(len(ids) + 1 for ids in held)], dtype=np.int64)
    return stream_of_tokens(tokens, bounds, slots_each, ended=True)


def stream_of_store(store: TokenStore, slots_each: int) -> DocumentStream:
    """The documents of a store that hold text; reads its index once, and none of its tokens.

    Raises UserError where the index is corrupt, or documents end with a token and one does not.
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
    """All tokens as one document, ends among them as they lie."""
    bounds = np.array([0, len(line.tokens)], dtype=np.int64)
    return DocumentStream(
        line.tokens, bounds.__getitem__, False, _NONE, 1, 0, f"undivided {line.identity}"
    )
