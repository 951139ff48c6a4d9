"""Documents as token rows of one length, for decoders that predict the next token.

A document of tokens t1 ... tn becomes n + 1 predictions: from ``start t1 ... tn`` to ``t1 ... tn
eos``. The predictions of all documents, one after the other, are cut into rows of one length. So
every token is predicted exactly once, also at the edge of a row, and so is the end of each document
if it is to be learned. Only the last row can be short; it is padded with positions that predict
nothing.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer, encode, encode_with_spans
from regrow.corpus.long_documents import (
    WINDOW,
    Encoded,
    encode_in_cuts,
    encode_in_windows,
)
from regrow.corpus.number_buffer import NumberBuffer
from regrow.corpus.samples import Batch

NOT_PREDICTED = -100
"""The label of a position that predicts nothing; transformers uses the same value."""

_DOCUMENTS_AT_ONCE = 256
_NONE = np.empty(0, dtype=np.int64)


def start_and_end(tokenizer: Tokenizer) -> tuple[int, int]:
    """The token before a document's first token, and the token after its last.

    The start is the tokenizer's ``bos`` if the tokenizer puts it before a text (Llama, Gemma).
    Otherwise it is ``eos``: such models were trained on documents with ``eos`` between them
    (GPT-NeoX, OLMo 2, SmolLM2).

    Raises:
        UserError: the tokenizer has no ``eos``.
    """
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{tokenizer.name_or_path or 'tokenizer'}: no eos_token, which ends each document; "
            "set eos_token in tokenizer_config.json"
        )
    end = int(tokenizer.eos_token_id)
    before = tokenizer("")["input_ids"]
    if before and before[0] == tokenizer.bos_token_id:
        return int(before[0]), end
    return end, end


def end_is_predicted(tokenizer: Tokenizer) -> bool:
    """Whether a model should learn that a document ends with ``eos``.

    Not if ``eos`` ends the turns of a chat template. A document is not a turn: a model that learns
    ``eos`` after any line ends its answers at once.
    """
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        return True
    text = str(template)
    return "eos_token" not in text and str(tokenizer.eos_token) not in text


def tokenise(documents: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.int32]]:
    """The token ids of each document (`regrow.corpus.encoding.encode`), [tokens] each.

    A document of more than a million characters is encoded in windows, see
    `regrow.corpus.long_documents`.
    """
    for group in _groups(documents):
        if len(group[0]) > WINDOW:
            yield _tokenise_long(group[0], tokenizer)
            continue
        for ids in encode(group, tokenizer):
            yield np.asarray(ids, dtype=np.int32)


def _groups(documents: Iterable[str]) -> Iterator[list[str]]:
    """Documents that are encoded at once: a long one alone, others with about as much text."""
    group: list[str] = []
    characters = 0
    for document in documents:
        characters += len(document)
        if group and (characters > WINDOW or len(group) == _DOCUMENTS_AT_ONCE):
            yield group
            group, characters = [], len(document)
        group.append(document)
    if group:
        yield group


def tokenise_with_spans(document: str, tokenizer: Tokenizer) -> Encoded:
    """As `tokenise`, of one document, with the characters of each token.

    `tokenizer`: a fast one.
    """

    def encode_window(text: str) -> Encoded:
        ids, spans = encode_with_spans(text, tokenizer)
        return Encoded(np.asarray(ids, dtype=np.int32), np.array(spans, np.int64).reshape(-1, 2))

    return encode_in_windows(document, encode_window)


def _tokenise_long(document: str, tokenizer: Tokenizer) -> NDArray[np.int32]:
    def encode_ids(text: str) -> NDArray[np.int32]:
        return np.asarray(encode([text], tokenizer)[0], dtype=np.int32)

    if tokenizer.is_fast:
        return tokenise_with_spans(document, tokenizer).ids
    return encode_in_cuts(document, encode_ids)


@dataclass(frozen=True, eq=False)
class PackedText:
    """Rows of packed documents; a `Samples` for the causal objective.

    Attributes:
        inputs: Input tokens of all documents, one after the other, each document after its start
            token, [predictions].
        starts: Where each document begins in `inputs`, ascending, first 0, [documents].
        end: The token that ends a document.
        row_length: Predictions in a row.
        predict_end: Whether the end of a document is a label.
        empty: Where slots begin that stay empty to the end of their row, ascending. `starts` has
            them too.
    """

    inputs: NDArray[np.int32]
    starts: NDArray[np.int64]
    end: int
    row_length: int
    predict_end: bool = True
    empty: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __len__(self) -> int:
        return -(-len(self.inputs) // self.row_length)

    @cached_property
    def identity(self) -> str:
        digest = hashlib.sha256(f"packed {self.row_length} {self._last_label}\0".encode())
        digest.update(len(self.inputs).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(self.inputs, dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.starts, dtype="<i8").data)
        digest.update(np.ascontiguousarray(self.empty, dtype="<i8").data)
        return digest.hexdigest()

    @property
    def _last_label(self) -> int:
        return self.end if self.predict_end else NOT_PREDICTED

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(rows), self.row_length)

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64] | None = None) -> Batch:
        """``input_ids``, ``labels`` and ``position_ids``, int64, [rows, row_length] each.

        Positions count from 0 in each document, and from 0 again in each row. So position 0 marks
        the begin of a piece of another document, and no attention crosses it. Nothing is random.
        """
        shape = (len(rows), self.row_length)
        input_ids, labels, positions = (np.empty(shape, dtype=np.int64) for _ in range(3))
        for place, row in enumerate(rows):
            input_ids[place], labels[place], positions[place] = self._row(int(row))
        return {"input_ids": input_ids, "labels": labels, "position_ids": positions}

    def _row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        first = row * self.row_length
        last = min(first + self.row_length, len(self.inputs))
        count = last - first
        input_ids = np.full(self.row_length, self.end, dtype=np.int64)
        input_ids[:count] = self.inputs[first:last]

        # A label is the next input, save at a document's last: the end token, or none.
        labels = np.full(self.row_length, NOT_PREDICTED, dtype=np.int64)
        following = self.inputs[first + 1 : last + 1]
        labels[: len(following)] = following
        begins = np.searchsorted(self.starts, [first + 1, last + 1])
        inside = self.starts[begins[0] : begins[1]]
        labels[inside - first - 1] = self._last_label
        if last == len(self.inputs):
            labels[count - 1] = self._last_label
        stays_empty = self.empty[slice(*np.searchsorted(self.empty, [first, last]))]
        if len(stays_empty):
            labels[stays_empty[0] - first :] = NOT_PREDICTED

        places = np.arange(self.row_length)
        pieces = np.zeros(self.row_length, dtype=np.int64)
        edges = inside[inside < last] - first
        pieces[edges] = edges
        if count < self.row_length:
            pieces[count] = count
        return input_ids, labels, places - np.maximum.accumulate(pieces)


def pack(documents: Iterable[str], tokenizer: Tokenizer, row_length: int) -> PackedText:
    """Tokenises documents and packs them into rows of ``row_length`` predictions.

    Raises:
        UserError: the text fills less than one row, or the tokenizer has no ``eos``.
    """
    start, _ = start_and_end(tokenizer)
    inputs, starts = NumberBuffer(np.int32), NumberBuffer(np.int64)
    for ids in tokenise(documents, tokenizer):
        starts.append(len(inputs))
        inputs.append(start)
        inputs.extend(ids)
    return packed_text(inputs.numbers(), starts.numbers(), tokenizer, row_length)


def packed_text(
    inputs: NDArray[np.int32],
    starts: NDArray[np.int64],
    tokenizer: Tokenizer,
    row_length: int,
    empty: NDArray[np.int64] = _NONE,
) -> PackedText:
    """The rows of these input tokens; see `PackedText`.

    Raises UserError if they fill less than one row.
    """
    length = len(inputs)
    if length < row_length:
        raise UserError(
            f"the text is {length:,} tokens, less than one row of {row_length}; "
            "give more text or a smaller row_length"
        )
    return PackedText(
        inputs=inputs,
        starts=starts,
        end=start_and_end(tokenizer)[1],
        row_length=row_length,
        predict_end=end_is_predicted(tokenizer),
        empty=empty,
    )
