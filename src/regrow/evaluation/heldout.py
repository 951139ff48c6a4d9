"""Loss on text that the model was not trained on."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regrow.corpus.packing import start_and_end, tokenise
from regrow.errors import UserError
from regrow.objectives.head import check_head, head_of, hidden_states
from regrow.precision import Precision, autocast

_Window = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class HeldoutLoss:
    """Loss over a text.

    Attributes:
        loss_per_token: Nats per token; comparable under one tokenizer only.
        bits_per_byte: Bits per UTF-8 byte of the text; comparable across vocabularies.
        tokens: Tokens predicted, which are all tokens of the text.
        bytes: UTF-8 bytes of the text.
    """

    loss_per_token: float
    bits_per_byte: float
    tokens: int
    bytes: int


def heldout_loss(
    model: nn.Module,
    tokenizer: Any,
    documents: Iterable[str],
    *,
    row_length: int = 512,
    batch_tokens: int = 4096,
    precision: Precision = "fp32",
) -> HeldoutLoss:
    """The loss of a causal model over all tokens of some documents, each read alone.

    A document's first token is predicted too, from the start token (see
    `regrow.corpus.packing.start_and_end`), so tokens and bytes cover the same text; the end token
    after it is no text and is not predicted. A document longer than ``row_length`` is read in
    windows of that many predictions, each of which begins from the token before it and nothing
    earlier. Empty documents add nothing.

    Args:
        batch_tokens: Bound on the tokens in one forward pass, padding included; at least one
            window is read at a time.

    Raises:
        UserError: the documents hold no token, or the model's head is not known.
    """
    start, _ = start_and_end(tokenizer)
    windows: list[_Window] = []
    texts = list(documents)
    for ids in tokenise(texts, tokenizer):
        line = np.concatenate([np.array([start]), ids]).astype(np.int64)
        for first in range(0, len(ids), row_length):
            piece = line[first : first + row_length + 1]
            windows.append((piece[:-1], piece[1:]))
    if not windows:
        raise UserError("the held-out text holds no token; give at least one document with text")
    check_head(model)

    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    nats = 0.0
    try:
        with (
            torch.no_grad(),
            autocast(precision, device),
        ):
            head = head_of(model)
            for batch in _by_length(windows, batch_tokens):
                inputs, targets, predicts = (part.to(device) for part in _padded(batch))
                hidden = hidden_states(model, input_ids=inputs)
                nats += head.loss(hidden[predicts], targets[predicts]).item()
    finally:
        model.train(was_training)

    tokens = sum(len(targets) for _, targets in windows)
    size = sum(len(text.encode()) for text in texts)
    return HeldoutLoss(
        loss_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / size,
        tokens=tokens,
        bytes=size,
    )


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
