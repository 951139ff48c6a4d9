"""How well an encoder-decoder goes on with a text, the same text for any vocabulary."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from regrow.common.precision import Precision, autocast
from regrow.corpus.packing import NOT_PREDICTED, tokenise
from regrow.corpus.samples import Batch
from regrow.objectives.losses.head import learned_positions
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.span_corruption import denoising_tokens

CHARACTERS, READ = 256, 192
"""Of a piece of text, and those of them that are read."""
PIECES = 4
"""Of a document, from its beginning."""

_MARKS = 3
"""Tokens in a source, and in a target, beside the text, at most."""

_Pair = tuple[list[int], list[int]]


def continuation_loss(
    model: nn.Module,
    tokenizer: Any,
    documents: Iterable[str],
    *,
    batch_tokens: int,
    precision: Precision,
) -> tuple[float, int]:
    """Nats of the last quarter of each piece of text after its three quarters, and UTF-8 bytes.

    As UL2's `<S>` has it; the sentinel and the end of a target are not counted. Where a piece is
    divided is a matter of its characters, be it within a word: so all vocabularies predict the same
    text (SentencePiece puts its space before it, in all of them). Of no bytes where no document is
    long enough, or a piece is longer than the model has positions.

    Raises UserError where the tokenizer has no sentinels, or the head of the model is not known.
    """
    pieces = [piece for text in documents for piece in _pieces(text)]
    marks = denoising_tokens(tokenizer, model.config)
    read, predicted = (
        [ids.tolist() for ids in tokenise(parts, tokenizer)]
        for parts in ([piece[:READ] for piece in pieces], [piece[READ:] for piece in pieces])
    )
    pairs = sorted(zip(read, predicted, strict=True), key=lambda pair: -len(pair[0]))
    limit = learned_positions(model)
    if limit is not None and any(max(map(len, pair)) + _MARKS > limit for pair in pairs):
        return 0.0, 0
    objective = Seq2Seq()
    objective.check(model)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    try:
        with torch.no_grad(), autocast(precision, device):
            for some in _batches(pairs, batch_tokens):
                arrays = _batch(some, marks)
                batch = {name: torch.from_numpy(each).to(device) for name, each in arrays.items()}
                _, losses = objective(model, batch)
                # The sentinel comes first, and the end last.
                lengths = torch.tensor([len(target) + 2 for _, target in some], device=device)
                lasts = lengths.cumsum(0) - 1
                counted = torch.ones_like(losses, dtype=torch.bool)
                counted[lasts] = False
                counted[lasts - lengths + 1] = False
                nats += losses[counted].double().sum().item()
    finally:
        model.train(was_training)
    return nats, sum(len(piece[READ:].encode()) for piece in pieces)


def _pieces(text: str) -> list[str]:
    """The first pieces of a text; a last one that has nothing to predict is left out."""
    starts = range(0, min(len(text), PIECES * CHARACTERS), CHARACTERS)
    return [text[at : at + CHARACTERS] for at in starts if len(text) > at + READ]


def _batches(pairs: Sequence[_Pair], most: int) -> Iterator[Sequence[_Pair]]:
    """In order, with at most so many slots in each, or one pair."""
    first = source = target = 0
    for place, (read, predicted) in enumerate(pairs):
        source = max(source, len(read) + _MARKS)
        target = max(target, len(predicted) + _MARKS)
        if place > first and (place - first + 1) * (source + target) > most:
            yield pairs[first:place]
            first, source, target = place, len(read) + _MARKS, len(predicted) + _MARKS
    if pairs:
        yield pairs[first:]


def _batch(pairs: Sequence[_Pair], marks: DenoisingTokens) -> Batch:
    """As `regrow.objectives.rows.examples.write_examples` has it."""
    prefix = [marks.prefixes["<S>"]] if "<S>" in marks.prefixes else []
    sentinel = marks.sentinels[0]
    sources = [[*prefix, *read, sentinel, marks.eos] for read, _ in pairs]
    targets = [[sentinel, *predicted, marks.eos] for _, predicted in pairs]
    inputs = [[marks.start, *target[:-1]] for target in targets]
    return {
        "input_ids": _filled(sources, marks.pad),
        "attention_mask": _filled([[1] * len(source) for source in sources], 0),
        "decoder_input_ids": _filled(inputs, marks.pad),
        "labels": _filled(targets, NOT_PREDICTED),
    }


def _filled(rows: Sequence[Sequence[int]], value: int) -> Any:
    found = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return found
