"""How well an encoder-decoder continues a text, comparable across vocabularies."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from regrow.common.precision import Precision, autocast
from regrow.common.progress import told
from regrow.corpus.packing import NOT_PREDICTED, tokenise
from regrow.corpus.samples import Batch
from regrow.objectives.losses.head import learned_positions
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.denoisers import DenoisingTokens
from regrow.objectives.rows.span_corruption import denoising_tokens

PIECE_CHARACTERS, SOURCE_CHARACTERS = 256, 192
"""Characters of a piece of text, and of its beginning, which the encoder reads."""
PIECES = 4
"""Pieces of a document that are measured, from its beginning."""

_SPECIAL_TOKENS = 3
"""Upper bound on the special tokens in a source, and in a target."""

_Pair = tuple[list[int], list[int]]


def continuation_loss(
    model: nn.Module,
    tokenizer: Any,
    documents: Iterable[str],
    *,
    batch_tokens: int,
    precision: Precision,
) -> tuple[float, int]:
    """Loss over the last quarter of each piece of text, given the first three quarters.

    Examples are written as with UL2's denoiser `S`. The sentinel and the eos of a target are not
    counted. A piece is divided by characters, possibly within a word, so models of all vocabularies
    predict the same text. (SentencePiece puts a space before it, with every vocabulary.)

    Args:
        batch_tokens: Upper bound on the slots in a forward pass, padding included. A pass has at
            least one piece.

    Returns:
        The loss in nats, and the UTF-8 bytes that it is over. Both are 0 if no document is long
        enough, or if a piece has more tokens than the model has positions.

    Raises:
        UserError: the tokenizer has no sentinels, or `Head` cannot express the model's head.
    """
    pieces = [piece for text in documents for piece in _pieces(text)]
    special_tokens = denoising_tokens(tokenizer, model.config)
    beginnings, ends = (
        [ids.tolist() for ids in tokenise(texts, tokenizer)]
        for texts in (
            [piece[:SOURCE_CHARACTERS] for piece in pieces],
            [piece[SOURCE_CHARACTERS:] for piece in pieces],
        )
    )
    pairs = sorted(zip(beginnings, ends, strict=True), key=lambda pair: -len(pair[0]))
    limit = learned_positions(model)
    if limit is not None and any(max(map(len, pair)) + _SPECIAL_TOKENS > limit for pair in pairs):
        return 0.0, 0
    loss = Seq2Seq()
    loss.check(model)
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    try:
        with torch.no_grad(), autocast(precision, device):
            for some in told(list(_batches(pairs, batch_tokens)), "measuring the loss, batch"):
                arrays = _batch(some, special_tokens)
                batch = {name: torch.from_numpy(each).to(device) for name, each in arrays.items()}
                _, losses = loss(model, batch)
                # A target begins with the sentinel and ends with eos.
                lengths = torch.tensor([len(target) + 2 for _, target in some], device=device)
                lasts = lengths.cumsum(0) - 1
                counted = torch.ones_like(losses, dtype=torch.bool)
                counted[lasts] = False
                counted[lasts - lengths + 1] = False
                nats += losses[counted].double().sum().item()
    finally:
        model.train(was_training)
    return nats, sum(len(piece[SOURCE_CHARACTERS:].encode()) for piece in pieces)


def _pieces(text: str) -> list[str]:
    """The first pieces of a text. A last piece with nothing to predict is left out."""
    starts = range(0, min(len(text), PIECES * PIECE_CHARACTERS), PIECE_CHARACTERS)
    return [
        text[start : start + PIECE_CHARACTERS]
        for start in starts
        if len(text) > start + SOURCE_CHARACTERS
    ]


def _batches(pairs: Sequence[_Pair], most: int) -> Iterator[Sequence[_Pair]]:
    """Batches in order, each with at most `most` slots, or with one pair."""
    first = source = target = 0
    for place, (read, predicted) in enumerate(pairs):
        source = max(source, len(read) + _SPECIAL_TOKENS)
        target = max(target, len(predicted) + _SPECIAL_TOKENS)
        if place > first and (place - first + 1) * (source + target) > most:
            yield pairs[first:place]
            first, source, target = (
                place,
                len(read) + _SPECIAL_TOKENS,
                len(predicted) + _SPECIAL_TOKENS,
            )
    if pairs:
        yield pairs[first:]


def _batch(pairs: Sequence[_Pair], special_tokens: DenoisingTokens) -> Batch:
    """A batch as from `regrow.objectives.rows.examples.write_examples`."""
    prefix = [special_tokens.prefixes["<S>"]] if "<S>" in special_tokens.prefixes else []
    sentinel = special_tokens.sentinels[0]
    sources = [[*prefix, *read, sentinel, special_tokens.eos] for read, _ in pairs]
    targets = [[sentinel, *predicted, special_tokens.eos] for _, predicted in pairs]
    inputs = [[special_tokens.start, *target[:-1]] for target in targets]
    return {
        "input_ids": _filled(sources, special_tokens.pad),
        "attention_mask": _filled([[1] * len(source) for source in sources], 0),
        "decoder_input_ids": _filled(inputs, special_tokens.pad),
        "labels": _filled(targets, NOT_PREDICTED),
    }


def _filled(rows: Sequence[Sequence[int]], value: int) -> Any:
    found = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids)] = ids
    return found
