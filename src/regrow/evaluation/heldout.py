"""Loss on text that the model was not trained on."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regrow.common.errors import UserError
from regrow.common.precision import Precision, autocast
from regrow.corpus.packing import start_and_end, tokenise
from regrow.evaluation.continuation import continuation_loss
from regrow.evaluation.heldout_components import mean_loss
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import CorruptedText, corrupt_text

_SEED = 0
"""Of what is taken out of a held-out text."""

Predicts = Literal["every token", "what is taken out"]
_Window = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class HeldoutLoss:
    """Loss over a text.

    Attributes:
        loss_per_token: Nats per token; comparable under one tokenizer only.
        bits_per_byte: Bits per UTF-8 byte of text; comparable across vocabularies. None of an
            encoder-decoder without a document of more than 192 characters, and where not asked for.
        tokens: Tokens predicted: all tokens of the text, or all of the targets.
        bytes: UTF-8 bytes that `bits_per_byte` is of: all of the text, or what is gone on with.
        predicts: What the loss per token is of.
    """

    loss_per_token: float
    bits_per_byte: float | None
    tokens: int
    bytes: int
    predicts: Predicts


def heldout_loss(
    model: nn.Module,
    tokenizer: Any,
    documents: Iterable[str],
    *,
    row_length: int = 512,
    batch_tokens: int = 4096,
    precision: Precision = "fp32",
    bits: bool = True,
) -> HeldoutLoss:
    """The loss of a model over some documents, each read alone.

    A decoder predicts all tokens. A document's first token is predicted too, from the start token
    (see `regrow.corpus.packing.start_and_end`), so tokens and bytes cover the same text; the end
    token after it is no text and is not predicted. A document longer than ``row_length`` is read
    in windows of that many predictions, each of which begins from the token before it and nothing
    earlier. Empty documents add nothing.

    An encoder-decoder fills in plain span corruption (3 tokens a span, 15% of the text) in windows
    of at most ``row_length`` tokens. What is taken out is drawn from a fixed seed: it is the same
    for all models with one tokenizer. Bits are those of going on with the first pieces of each
    document (`regrow.evaluation.continuation`), the same text for all models.

    Args:
        batch_tokens: Bound on the tokens in one forward pass, padding included; at least one
            window is read at a time.
        bits: Whether an encoder-decoder is measured in bits too, which is a pass of its own.

    Raises:
        UserError: the documents hold no token, the model's head is not known, or the tokenizer of
            an encoder-decoder has no sentinels.
    """
    texts = list(documents)
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        samples = corrupt_text(texts, tokenizer, model.config, row_length, _SEED)
        tokens_loss, tokens = _filling_loss(model, samples, batch_tokens, precision)
        nats, size = 0.0, 0
        if bits:
            nats, size = continuation_loss(
                model, tokenizer, texts, batch_tokens=batch_tokens, precision=precision
            )
        per_byte = nats / math.log(2) / size if size else None
        return HeldoutLoss(tokens_loss, per_byte, tokens, size, "what is taken out")
    start, _ = start_and_end(tokenizer)
    windows: list[_Window] = []
    for ids in tokenise(texts, tokenizer):
        line = np.concatenate([np.array([start]), ids]).astype(np.int64)
        for first in range(0, len(ids), row_length):
            piece = line[first : first + row_length + 1]
            windows.append((piece[:-1], piece[1:]))
    if not windows:
        raise UserError("the held-out text holds no token; give at least one document with text")
    check_head(model)
    nats = 0.0
    with _measuring(model, precision) as device:
        head = head_of(model)
        for batch in _by_length(windows, batch_tokens):
            inputs, targets, predicts = (part.to(device) for part in _padded(batch))
            hidden = hidden_states(model, input_ids=inputs)
            loss, _ = head.loss(hidden[predicts], targets[predicts])
            nats += loss.item()

    tokens = sum(len(targets) for _, targets in windows)
    size = sum(len(text.encode()) for text in texts)
    return HeldoutLoss(
        loss_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / size,
        tokens=tokens,
        bytes=size,
        predicts="every token",
    )


def _filling_loss(
    model: nn.Module, samples: CorruptedText, batch_tokens: int, precision: Precision
) -> tuple[float, int]:
    """Nats per token over every window, as the sample of its own number, and of how many tokens."""
    objective = Seq2Seq()
    objective.check(model)
    rows = np.arange(len(samples))
    return mean_loss(model, objective, samples, rows, batch_tokens, precision)


@contextmanager
def _measuring(model: nn.Module, precision: Precision) -> Iterator[torch.device]:
    """Evaluation mode without gradients, in this type; the model's device."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(precision, device):
            yield device
    finally:
        model.train(was_training)


def _by_length(windows: Sequence[_Window], batch_tokens: int) -> Iterable[Sequence[_Window]]:
    """Batches of windows of like length, the longest first."""
    ordered = sorted(windows, key=lambda window: -len(window[0]))
    first = 0
    while first < len(ordered):
        count = max(1, batch_tokens // len(ordered[first][0]))
        yield ordered[first : first + count]
        first += count


def _padded(batch: Sequence[_Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets, and where there are any; filled up on the right, which nothing before sees.

    So causal attention needs no mask, and what fills up is of no matter.
    """
    shape = (len(batch), max(len(inputs) for inputs, _ in batch))
    padded = np.zeros((2, *shape), dtype=np.int64)
    predicts = np.zeros(shape, dtype=np.bool_)
    for row, (inputs, targets) in enumerate(batch):
        padded[0, row, : len(inputs)] = inputs
        padded[1, row, : len(targets)] = targets
        predicts[row, : len(inputs)] = True
    return torch.from_numpy(padded[0]), torch.from_numpy(padded[1]), torch.from_numpy(predicts)
