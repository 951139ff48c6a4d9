"""Texts of which only the answers are predicted, several in a row of a decoder."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch, DataOrder
from regrow.objectives.rows.random_segmentation import Ids
from regrow.objectives.rows.single_row import NOT_IN_PREFIX

_MOST_OPEN = 64
"""Rows that are filled at the same time."""

Tokens = Sequence[int] | NDArray[np.int32]
Segment = tuple[Tokens, Tokens]
"""The tokens of a prompt, and those of its answer."""


@dataclass(frozen=True, eq=False)
class AnsweredTexts:
    """Texts as tokens, in which prompts and answers take turns.

    Attributes:
        tokens: The tokens of all texts, one after the other, [tokens].
        is_answer: Whether each token is one of an answer, [tokens]. The first of a text never is.
        text_lengths: Tokens of each text, [texts].
        row_length: The most tokens that a text has.
        pad: The token that rows are padded with.
    """

    tokens: NDArray[np.int32]
    is_answer: NDArray[np.bool_]
    text_lengths: Ids
    row_length: int
    pad: int

    def __len__(self) -> int:
        return len(self.text_lengths)

    @cached_property
    def identity(self) -> str:
        digest = hashlib.sha256(np.ascontiguousarray(self.tokens, dtype="<i4").data)
        digest.update(np.ascontiguousarray(self.is_answer, dtype="u1").data)
        digest.update(np.ascontiguousarray(self.text_lengths, dtype="<i8").data)
        return identity_of(
            "answered texts", tokens=digest.hexdigest(), row_length=self.row_length, pad=self.pad
        )

    def text(self, number: int) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The tokens of one text, and which of them are of an answer."""
        first = self._starts[number]
        where = slice(first, first + self.text_lengths[number])
        return self.tokens[where], self.is_answer[where]

    @cached_property
    def _starts(self) -> Ids:
        starts: Ids = np.cumsum(self.text_lengths) - self.text_lengths
        return starts


def answered_texts(
    texts: Iterable[Sequence[Segment]], row_length: int, *, pad: int
) -> tuple[AnsweredTexts, int]:
    """Texts of prompts and answers as tokens, and how many are longer than a row.

    These are left out. A text is never cut: a model must not learn to end an answer early.

    Args:
        texts: For each text, its prompts with their answers. The first prompt is not empty, nor is
            any answer.
        row_length: The most tokens of a text.
        pad: The token that rows are padded with.

    Raises:
        UserError: no text is left.
    """
    kept: list[tuple[NDArray[np.int32], NDArray[np.bool_]]] = []
    longer = 0
    for segments in texts:
        parts = [part for segment in segments for part in segment]
        if sum(map(len, parts)) > row_length:
            longer += 1
            continue
        answers = [np.full(len(part), number % 2 == 1) for number, part in enumerate(parts)]
        kept.append((np.concatenate(parts).astype(np.int32), np.concatenate(answers)))
    if not kept:
        raise nothing_left(longer, row_length)
    found = AnsweredTexts(
        tokens=np.concatenate([tokens for tokens, _ in kept]),
        is_answer=np.concatenate([is_answer for _, is_answer in kept]),
        text_lengths=np.array([len(tokens) for tokens, _ in kept], dtype=np.int64),
        row_length=row_length,
        pad=pad,
    )
    return found, longer


def nothing_left(longer: int, row_length: int) -> UserError:
    """The error if all of `longer` prompts with their answers are longer than a row."""
    return UserError(
        f"none of {longer:,} prompts with their answers fits into row_length ({row_length}); "
        "give more"
        if longer
        else "no prompt with an answer to train on"
    )


@dataclass(frozen=True, eq=False)
class PackedAnswers:
    """A `Samples` for decoders: rows of several texts, of which answers are predicted.

    No text is cut, and positions restart with each, so that none sees another.

    Attributes:
        texts: The texts.
        members: The texts of all rows, row after row, [texts].
        counts: Texts in each row, [rows].
    """

    texts: AnsweredTexts
    members: Ids
    counts: Ids

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def row_length(self) -> int:
        return self.texts.row_length

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "packed answers", texts=self.texts.identity, members=self.members, counts=self.counts
        )

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        lengths = self.texts.text_lengths[self.members]
        found: Ids = np.add.reduceat(lengths, self._starts)[rows]
        return found

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each row, [samples, 1]: the last token of a text is only a label."""
        slots: Ids = (self.lengths(rows) - self.counts[rows])[:, None]
        return slots

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """``input_ids``, ``labels``, ``position_ids`` and ``blocks``, int64, [rows, width] each.

        Positions restart with each text, and continue through the padding. ``blocks`` holds for
        each input before the first answer of a text the number of the text in the row, and
        `NOT_IN_PREFIX` for all other inputs (`regrow.objectives.losses.prefix_lm`).
        """
        width = int(self.slots(rows, samples).max())
        shape = (len(rows), width)
        found = {
            "input_ids": np.full(shape, self.texts.pad, dtype=np.int64),
            "labels": np.full(shape, NOT_PREDICTED, dtype=np.int64),
            "position_ids": np.zeros(shape, dtype=np.int64),
            "blocks": np.full(shape, NOT_IN_PREFIX, dtype=np.int64),
        }
        for place, row in enumerate(rows.tolist()):
            begin = 0
            first = self._starts[row]
            for number, text in enumerate(self.members[first : first + self.counts[row]].tolist()):
                tokens, is_answer = self.texts.text(text)
                end = begin + len(tokens) - 1
                found["input_ids"][place, begin:end] = tokens[:-1]
                found["labels"][place, begin:end] = np.where(
                    is_answer[1:], tokens[1:], NOT_PREDICTED
                )
                found["position_ids"][place, begin:] = np.arange(width - begin)
                found["blocks"][place, begin : begin + int(is_answer.argmax())] = number
                begin = end
        return found

    @cached_property
    def _starts(self) -> Ids:
        starts: Ids = np.cumsum(self.counts) - self.counts
        return starts


def pack_answers(texts: AnsweredTexts, seed: int) -> PackedAnswers:
    """Rows of several texts, drawn at random, each with at most `row_length` tokens.

    Each text goes into the first open row that has room; a row is closed if too many are open.
    """
    order = DataOrder(seed, len(texts), "packing of prompts").rows(0, len(texts))
    lengths = texts.text_lengths[order]
    closed: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []
    for text, length in zip(order.tolist(), lengths.tolist(), strict=True):
        for place, (room, members) in enumerate(open_rows):
            if length <= room:
                open_rows[place] = (room - length, [*members, text])
                break
        else:
            open_rows.append((texts.row_length - length, [text]))
        if len(open_rows) > _MOST_OPEN:
            fullest = min(range(len(open_rows)), key=lambda place: open_rows[place][0])
            closed.append(open_rows.pop(fullest)[1])
    rows = [*closed, *(members for _, members in open_rows)]
    return PackedAnswers(
        texts,
        np.array([text for members in rows for text in members], dtype=np.int64),
        np.array([len(members) for members in rows], dtype=np.int64),
    )


def one_in_a_row(texts: AnsweredTexts) -> PackedAnswers:
    """Rows of one text each, in their order."""
    every = np.arange(len(texts))
    return PackedAnswers(texts, every, np.ones_like(every))
