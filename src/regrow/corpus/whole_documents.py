"""Packed rows in which some documents are never cut.

Other documents are cut at the end of a row, as in `regrow.corpus.packing.pack`. A document that
must stay whole waits until a row has room for it. If too many wait, the rest of a row stays empty.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from regrow.corpus.encoding import Tokenizer
from regrow.corpus.number_buffer import NumberBuffer
from regrow.corpus.packing import PackedText, packed_text, start_and_end

_MOST_WAITING = 64
"""Documents that wait for room at the same time."""


@dataclass(frozen=True, eq=False)
class Document:
    """A tokenised document.

    Attributes:
        ids: Its tokens, [tokens].
        is_whole: Whether it must not be cut.
    """

    ids: NDArray[np.int32]
    is_whole: bool

    @property
    def slots(self) -> int:
        """What it needs of a row: its start token and its tokens."""
        return 1 + len(self.ids)


def pack_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, row_length: int
) -> PackedText:
    """Pack documents into rows of `row_length` predictions.

    A document that must stay whole needs at most `row_length` slots.

    Raises UserError if the text fills less than one row, or the tokenizer has no ``eos``.
    """
    start, end = start_and_end(tokenizer)
    inputs = NumberBuffer(np.int32)
    starts, empty = NumberBuffer(np.int64), NumberBuffer(np.int64)
    for document in _arranged(documents, row_length):
        starts.append(len(inputs))
        if isinstance(document, int):
            empty.append(len(inputs))
            inputs.extend(repeat(end, document))
        else:
            inputs.append(start)
            inputs.extend(document.ids)
    return packed_text(inputs.numbers(), starts.numbers(), tokenizer, row_length, empty.numbers())


def _arranged(documents: Iterable[Document], row_length: int) -> Iterator[Document | int]:
    """The documents in the order of the rows; a number is of slots that stay empty."""
    waiting: list[Document] = []
    room = row_length

    def fitting() -> Iterator[Document]:
        """The documents that fit into the rest of the row, the longest first."""
        nonlocal room
        while fits := [each for each in waiting if each.slots <= room]:
            chosen = max(fits, key=lambda each: each.slots)
            waiting.remove(chosen)
            room = room - chosen.slots or row_length
            yield chosen

    def all_waiting() -> Iterator[Document | int]:
        nonlocal room
        yield from fitting()
        while waiting:
            yield room
            room = row_length
            yield from fitting()

    for document in documents:
        if document.is_whole:
            waiting.append(document)
        else:
            yield document
            room = (room - document.slots) % row_length or row_length
        yield from all_waiting() if len(waiting) >= _MOST_WAITING else fitting()
    yield from all_waiting()
