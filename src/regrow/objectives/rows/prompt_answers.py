"""Rows of prompts and answers, of which only the answers are predicted (instruction tuning)."""

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


@dataclass(frozen=True, eq=False)
class PromptAnswers:
    """Pairs of a prompt and its answer as tokens; a `Samples` for encoder-decoders.

    Attributes:
        prompts: The tokens of all prompts, one after the other.
        answers: The tokens of all answers.
        prompt_lengths: Tokens of each prompt, [pairs].
        answer_lengths: Tokens of each answer, [pairs].
        row_length: The most tokens that a prompt and its answer have together.
        start: The first token that a decoder reads.
        pad: The token that rows are padded with.
    """

    prompts: NDArray[np.int32]
    answers: NDArray[np.int32]
    prompt_lengths: Ids
    answer_lengths: Ids
    row_length: int
    start: int
    pad: int

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @cached_property
    def identity(self) -> str:
        digest = hashlib.sha256()
        for ids in (self.prompts, self.answers):
            digest.update(np.ascontiguousarray(ids, dtype="<i4").data)
        for lengths in (self.prompt_lengths, self.answer_lengths):
            digest.update(np.ascontiguousarray(lengths, dtype="<i8").data)
        return identity_of(
            "prompts and answers", tokens=digest.hexdigest(), row_length=self.row_length,
            start=self.start, pad=self.pad,
        )  # fmt: skip

    @property
    def tokens(self) -> int:
        """Tokens of all prompts and answers."""
        return len(self.prompts) + len(self.answers)

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        both: Ids = self.prompt_lengths[rows] + self.answer_lengths[rows]
        return both

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each prompt and answer, [samples, 2]."""
        return np.stack([self.prompt_lengths[rows], self.answer_lengths[rows]], axis=1)

    def prompt(self, pair: int) -> NDArray[np.int32]:
        """The tokens of one prompt."""
        first = self._prompt_starts[pair]
        return self.prompts[first : first + self.prompt_lengths[pair]]

    def answer(self, pair: int) -> NDArray[np.int32]:
        """The tokens of one answer."""
        first = self._answer_starts[pair]
        return self.answers[first : first + self.answer_lengths[pair]]

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """A batch in the form of `regrow.objectives.rows.examples.write_examples`."""
        prompts = [self.prompt(int(row)) for row in rows]
        answers = [self.answer(int(row)) for row in rows]
        labels = _padded(answers, NOT_PREDICTED)
        inputs = _padded([np.concatenate([[self.start], a[:-1]]) for a in answers], self.pad)
        mask = np.arange(max(map(len, prompts))) < self.prompt_lengths[rows][:, None]
        return {
            "input_ids": _padded(prompts, self.pad),
            "attention_mask": mask.astype(np.int64),
            "decoder_input_ids": inputs,
            "labels": labels,
        }

    @cached_property
    def _prompt_starts(self) -> Ids:
        starts: Ids = np.cumsum(self.prompt_lengths) - self.prompt_lengths
        return starts

    @cached_property
    def _answer_starts(self) -> Ids:
        starts: Ids = np.cumsum(self.answer_lengths) - self.answer_lengths
        return starts


def prompt_answers(
    pairs: Iterable[tuple[Sequence[int], Sequence[int]]], row_length: int, *, start: int, pad: int
) -> tuple[PromptAnswers, int]:
    """Pairs of tokens as rows, and how many pairs are longer than a row, which are left out.

    A pair is never cut: a model must not learn to end an answer early.

    Args:
        pairs: The tokens of each prompt and of its answer; neither is empty.
        row_length: The most tokens of a prompt and its answer together.
        start: The first token that the decoder of an encoder-decoder reads.
        pad: The token that rows are padded with.

    Raises:
        UserError: no pair is left.
    """
    kept: list[tuple[NDArray[np.int32], NDArray[np.int32]]] = []
    longer = 0
    for prompt, answer in pairs:
        if len(prompt) + len(answer) > row_length:
            longer += 1
        else:
            kept.append((np.asarray(prompt, dtype=np.int32), np.asarray(answer, dtype=np.int32)))
    if not kept:
        raise UserError(
            f"none of {longer:,} prompts with their answers fits into row_length ({row_length}); "
            "give more"
            if longer
            else "no prompt with an answer to train on"
        )
    rows = PromptAnswers(
        prompts=np.concatenate([prompt for prompt, _ in kept]),
        answers=np.concatenate([answer for _, answer in kept]),
        prompt_lengths=np.array([len(prompt) for prompt, _ in kept], dtype=np.int64),
        answer_lengths=np.array([len(answer) for _, answer in kept], dtype=np.int64),
        row_length=row_length, start=start, pad=pad,
    )  # fmt: skip
    return rows, longer


def _padded(lines: Sequence[NDArray[np.int32]], value: int) -> Ids:
    """The lines as rows of one array, filled up on the right."""
    found = np.full((len(lines), max(map(len, lines))), value, dtype=np.int64)
    for row, line in zip(found, lines, strict=True):
        row[: len(line)] = line
    return found


@dataclass(frozen=True, eq=False)
class PackedPromptAnswers:
    """A `Samples` for decoders: rows of several prompts, each followed by its answer.

    No pair is cut, and positions restart with each, so that none sees another.

    Attributes:
        pairs: The prompts and answers.
        members: The pairs of all rows, row after row, [pairs].
        counts: Pairs in each row, [rows].
    """

    pairs: PromptAnswers
    members: Ids
    counts: Ids

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def row_length(self) -> int:
        return self.pairs.row_length

    @cached_property
    def identity(self) -> str:
        return identity_of(
            "packed prompts and answers", pairs=self.pairs.identity, members=self.members,
            counts=self.counts,
        )  # fmt: skip

    def lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        found: Ids = np.add.reduceat(self.pairs.lengths(self.members), self._starts)[rows]
        return found

    def slots(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> NDArray[np.int64]:
        """Slots of each row, [samples, 1]: the last token of an answer is only a label."""
        slots: Ids = (self.lengths(rows) - self.counts[rows])[:, None]
        return slots

    def batch(self, rows: NDArray[np.int64], samples: NDArray[np.int64]) -> Batch:
        """``input_ids``, ``labels``, ``position_ids`` and ``blocks``, int64, [rows, width] each.

        Positions restart with each pair, and continue through the padding. ``blocks`` holds for
        each input of a prompt the number of its pair in the row, and `NOT_IN_PREFIX` for all other
        inputs (`regrow.objectives.losses.prefix_lm`).
        """
        width = int(self.slots(rows, samples).max())
        shape = (len(rows), width)
        found = {
            "input_ids": np.full(shape, self.pairs.pad, dtype=np.int64),
            "labels": np.full(shape, NOT_PREDICTED, dtype=np.int64),
            "position_ids": np.zeros(shape, dtype=np.int64),
            "blocks": np.full(shape, NOT_IN_PREFIX, dtype=np.int64),
        }
        for place, row in enumerate(rows.tolist()):
            begin = 0
            first = self._starts[row]
            for number, pair in enumerate(self.members[first : first + self.counts[row]].tolist()):
                prompt, answer = self.pairs.prompt(pair), self.pairs.answer(pair)
                end = begin + len(prompt) + len(answer) - 1
                found["input_ids"][place, begin:end] = np.concatenate([prompt, answer[:-1]])
                found["labels"][place, begin + len(prompt) - 1 : end] = answer
                found["position_ids"][place, begin:] = np.arange(width - begin)
                found["blocks"][place, begin : begin + len(prompt)] = number
                begin = end
        return found

    @cached_property
    def _starts(self) -> Ids:
        starts: Ids = np.cumsum(self.counts) - self.counts
        return starts


def pack_prompt_answers(pairs: PromptAnswers, seed: int) -> PackedPromptAnswers:
    """Rows of several pairs, drawn at random, each with at most `row_length` tokens.

    Each pair goes into the first open row that has room; a row is closed if too many are open.
    """
    order = DataOrder(seed, len(pairs), "packing of prompts").rows(0, len(pairs))
    lengths = pairs.lengths(order)
    closed: list[list[int]] = []
    open_rows: list[tuple[int, list[int]]] = []
    for pair, length in zip(order.tolist(), lengths.tolist(), strict=True):
        for place, (room, members) in enumerate(open_rows):
            if length <= room:
                open_rows[place] = (room - length, [*members, pair])
                break
        else:
            open_rows.append((pairs.row_length - length, [pair]))
        if len(open_rows) > _MOST_OPEN:
            fullest = min(range(len(open_rows)), key=lambda place: open_rows[place][0])
            closed.append(open_rows.pop(fullest)[1])
    rows = [*closed, *(members for _, members in open_rows)]
    return PackedPromptAnswers(
        pairs,
        np.array([pair for members in rows for pair in members], dtype=np.int64),
        np.array([len(members) for members in rows], dtype=np.int64),
    )
