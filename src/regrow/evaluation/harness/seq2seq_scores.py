"""Scores of continuations by an encoder-decoder, whose encoder reads each context once.

The options of a question stand in one row of the decoder, each with its own beginning, and a mask
keeps them apart. So the keys and values of cross-attention are computed once for all options too.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from regrow.common.precision import Precision, autocast
from regrow.evaluation.harness.encoding import Encoding, Pair
from regrow.evaluation.harness.scores import (
    Computing,
    Score,
    batches_by_size,
    padded,
    scores_of,
)
from regrow.objectives.losses.head import head_of
from regrow.objectives.losses.shared_row_attention import (
    restarting_positions,
    self_mask,
)
from regrow.objectives.rows.examples import NO_TEXT


@dataclass(frozen=True)
class _Question:
    """A context, and the rows of a decoder that score continuations after it.

    Attributes:
        context: What the encoder reads.
        begin: What the decoder reads first.
        rows: The continuations of each row of the decoder.
    """

    context: tuple[int, ...]
    begin: tuple[int, ...]
    rows: tuple[tuple[tuple[int, ...], ...], ...]

    @cached_property
    def read(self) -> list[list[tuple[int, ...]]]:
        """What the decoder reads in each row, once for continuations that differ at the end."""
        return [[*dict.fromkeys((*self.begin, *end[:-1]) for end in ends)] for ends in self.rows]

    @cached_property
    def widths(self) -> tuple[int, int]:
        """The slots of the encoder and of the decoder."""
        return len(self.context), sum(len(each) for row in self.read for each in row)


def seq2seq_scores(
    model: Any, pairs: Sequence[Pair], encoding: Encoding, how: Computing
) -> Iterator[dict[Pair, Score]]:
    """The scores of continuations after their contexts, batch by batch.

    Args:
        model: An encoder-decoder of transformers, in evaluation mode.
        pairs: What the encoder reads, and a continuation of at least one token. Equal pairs are
            computed once.
        encoding: Says what the decoder reads before a continuation, which is not scored, and what
            of a context that is longer than the window the encoder reads.
        how: How they are computed. The window is that of the encoder.
    """
    by_context: dict[tuple[int, ...], dict[tuple[int, ...], list[Pair]]] = {}
    for pair in dict.fromkeys(pairs):
        context, end = pair
        ends = by_context.setdefault(encoding.within(context, how.window), {})
        ends.setdefault(end[-how.window :], []).append(pair)
    begin = encoding.decoder_begin
    questions = [
        _Question(context, begin, (tuple(ends),) if how.shares else tuple((end,) for end in ends))
        for context, ends in by_context.items()
    ]
    for batch in batches_by_size(questions, how.batch_tokens):
        found = iter(_scores(model, batch, how.precision))
        yield {
            pair: score
            for question in batch
            for ends in question.rows
            for end in ends
            for score in [next(found)]
            for pair in by_context[question.context][end]
        }


def _scores(model: Any, questions: Sequence[_Question], precision: Precision) -> list[Score]:
    """The scores of all continuations, in order."""
    device = next(model.parameters()).device
    contexts = [question.context for question in questions]
    sources = padded(contexts, 0, device)
    read = padded([[1] * len(context) for context in contexts], 0, device)
    rows: list[list[tuple[int, ...]]] = []
    of_question: list[int] = []
    places: list[tuple[int, range]] = []
    targets: list[tuple[int, ...]] = []
    for number, question in enumerate(questions):
        for texts, ends in zip(question.read, question.rows, strict=True):
            first = 0
            begins: dict[tuple[int, ...], int] = {}
            for text in texts:
                begins[text] = first
                first += len(text)
            for end in ends:
                last = begins[(*question.begin, *end[:-1])] + len(question.begin) - 1
                places.append((len(rows), range(last, last + len(end))))
                targets.append(end)
            rows.append(texts)
            of_question.append(number)
    inputs = padded([[token for text in row for token in text] for row in rows], 0, device)
    numbers = [[at for at, text in enumerate(row) for _ in text] for row in rows]
    texts_of_slots = padded(numbers, NO_TEXT, device)
    encoder, decoder = model.get_encoder(), model.get_decoder()
    with torch.inference_mode(), autocast(precision, device):
        states = encoder(input_ids=sources, attention_mask=read).last_hidden_state
        if len(rows) > len(questions):
            index = torch.tensor(of_question, device=device)
            states, read = states[index], read[index]
        given: dict[str, Any] = {"attention_mask": torch.ones_like(inputs)}
        if any(len(row) > 1 for row in rows):
            mask = self_mask(decoder, texts_of_slots, is_causal=True)
            given = {"attention_mask": mask, **restarting_positions(decoder, texts_of_slots)}
        hidden = decoder(
            input_ids=inputs, encoder_hidden_states=states, encoder_attention_mask=read,
            use_cache=False, **given,
        ).last_hidden_state  # fmt: skip
        return scores_of(head_of(model), hidden, places, targets)
