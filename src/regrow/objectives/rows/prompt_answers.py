"""Pairs of a prompt and its answer, of which the answer is predicted (instruction tuning)."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from regrow.common.identity import identity_of
from regrow.corpus.packing import NOT_PREDICTED
from regrow.corpus.samples import Batch
from regrow.objectives.rows.answered_texts import (
    AnsweredTexts,
    Segment,
    answered_texts,
    nothing_left,
)
from regrow.objectives.rows.random_segmentation import Ids


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

    def as_texts(self) -> AnsweredTexts:
        """The same for decoders: each prompt with its answer after it."""
        pairs = ([(self.prompt(pair), self.answer(pair))] for pair in range(len(self)))
        return answered_texts(pairs, self.row_length, pad=self.pad)[0]

    @cached_property
    def _prompt_starts(self) -> Ids:
        starts: Ids = np.cumsum(self.prompt_lengths) - self.prompt_lengths
        return starts

    @cached_property
    def _answer_starts(self) -> Ids:
        starts: Ids = np.cumsum(self.answer_lengths) - self.answer_lengths
        return starts


Answers = PromptAnswers | AnsweredTexts
"""Prompts and answers as tokens: pairs, or texts of several."""


def prompt_answers(
    pairs: Iterable[Segment], row_length: int, *, start: int, pad: int
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
        raise nothing_left(longer, row_length)
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
