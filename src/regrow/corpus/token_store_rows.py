"""A token store as packed rows for decoders, read from disk row by row.

The rows are those that :func:`regrow.corpus.packing.pack` makes of the same text. The predictions
are the tokens in the order of the store: each token, also the end of a document, is predicted once
from the token before it, and the first token of a document from the start token. So a row is one
range of the store, and only the begins of documents in it have to be looked up.

Where the documents of the store begin with the start token themselves, that token is read and not
predicted. Its own slot then predicts nothing, and belongs to the document before.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.encoding import Tokenizer
from regrow.corpus.packing import NOT_PREDICTED, end_is_predicted, start_and_end
from regrow.corpus.samples import Batch
from regrow.corpus.token_store import TokenStore, begins_with


@dataclass(frozen=True, eq=False)
class StoreRows:
    """Rows of packed documents; a `Samples` for the causal objective.

    Attributes:
        store: The documents. If they have no end tokens there, no end is learned.
        row_length: Predictions in a row.
        start: The token before a document's first.
        end: The token that pads the last row.
        predict_end: Whether the end of a document is a label.
        has_starts: Whether each document begins with the start token in the store.
    """

    store: TokenStore
    row_length: int
    start: int
    end: int
    predict_end: bool = True
    has_starts: bool = False

    def __len__(self) -> int:
        return -(-len(self.store.tokens) // self.row_length)

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "store rows",
            row_length=self.row_length,
            start=self.start,
            end=self.end,
            predict_end=self.predict_end,
            store=self.store.identity,
            **({"has_starts": True} if self.has_starts else {}),
        )

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(rows), self.row_length)

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Batch:
        """See `PackedText.batch`."""
        shape = (len(rows), self.row_length)
        input_ids, labels, positions = (np.empty(shape, dtype=np.int64) for _ in range(3))
        for place, row in enumerate(rows.tolist()):
            self._write(row, input_ids[place], labels[place], positions[place])
        return {"input_ids": input_ids, "labels": labels, "position_ids": positions}

    def _write(
        self,
        row: int,
        input_ids: NDArray[np.int64],
        labels: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        tokens, length = self.store.tokens, self.row_length
        first = row * length
        count = min(length, len(tokens) - first)
        last = first + count
        starts = self.store.starts_between(first, last + 1) - first

        labels[:count] = tokens[first:last]
        labels[count:] = NOT_PREDICTED
        if self.store.end is not None and not self.predict_end:
            ends = starts - 1 if last < len(tokens) else np.append(starts - 1, count - 1)
            labels[ends[ends >= 0]] = NOT_PREDICTED

        input_ids[1:count] = tokens[first : last - 1]
        input_ids[0] = tokens[first - 1] if first else self.start
        input_ids[count:] = self.end
        begins = starts[starts < count]
        if self.has_starts:
            labels[begins] = NOT_PREDICTED
            begins = begins[begins + 1 < count] + 1
        input_ids[begins] = self.start

        # Positions count from the first token of each document, and from the first of the padding.
        positions[:] = 0
        positions[begins] = begins
        if count < length:
            positions[count] = count
        np.subtract(np.arange(length), np.maximum.accumulate(positions), out=positions)


def pack_store(store: TokenStore, tokenizer: Tokenizer, row_length: int) -> StoreRows:
    """The documents of a store as rows of `row_length` predictions.

    Of the tokens, only those of the first documents are read.

    Raises UserError if they fill less than one row, or the tokenizer has no ``eos``.
    """
    start, end = start_and_end(tokenizer)
    if len(store.tokens) < row_length:
        raise UserError(
            f"{store.path}: {len(store.tokens):,} tokens, less than one row of {row_length}; "
            "give more text or a smaller row_length"
        )
    has_starts = start != end and begins_with(store, start)
    return StoreRows(store, row_length, start, end, end_is_predicted(tokenizer), has_starts)
