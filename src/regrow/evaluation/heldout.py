"""Loss on text that the model was not trained on."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regrow.common.errors import UserError
from regrow.common.precision import Precision, autocast
from regrow.common.progress import told
from regrow.corpus.encoding import TextWithSpecialTokens
from regrow.corpus.packing import start_and_end, tokenise
from regrow.corpus.reading import PLAIN_TEXT, Reading
from regrow.corpus.text import read_documents
from regrow.evaluation.continuation import continuation_loss
from regrow.evaluation.heldout_components import mean_loss
from regrow.evaluation.lost_text import LostText, lost_text
from regrow.objectives.losses.head import check_head, head_of, hidden_states, learned_positions
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.span_corruption import CorruptedText, corrupt_text

_ROW_LENGTH = 512
_SEED = 0
"""Seed of the noise spans in held-out text; fixed, so that all models are measured alike."""

Predicts = Literal["every token", "what is taken out", "answers"]
"""Which tokens a loss per token is over. Reports and ledgers hold these words."""
_Window = tuple[NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class HeldoutLoss:
    """Loss over a text.

    Attributes:
        loss_per_token: Nats per token. Only comparable between models with the same tokenizer.
        bits_per_byte: Bits per UTF-8 byte of text. Comparable across vocabularies. None if it was
            not asked for, or for an encoder-decoder if no document has more than 192 characters.
        tokens: Predicted tokens: all tokens of the text, of the targets, or of the answers.
        bytes: UTF-8 bytes that `bits_per_byte` is over: all of the text, the continuations, or the
            words of the answers.
        predicts: Which tokens `loss_per_token` is over.
        unknown, lost: What tokenization loses of the text, which the numbers above ignore: unknown
            tokens as a share of its tokens, and bytes that its tokens do not spell as a share of
            its bytes (`regrow.evaluation.lost_text`). 0 if bits per byte were not asked for.
    """

    loss_per_token: float
    bits_per_byte: float | None
    tokens: int
    bytes: int
    predicts: Predicts
    unknown: float = 0.0
    lost: float = 0.0


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
    """The loss of a model over some documents. Each document is read alone.

    A decoder predicts every token. The first token of a document is predicted from the start token
    (`regrow.corpus.packing.start_and_end`), so tokens and bytes cover the same text. The end token
    of a document is not predicted, because it is not text. A document of more than ``row_length``
    tokens is read in windows of so many predictions. The context of a window begins with the token
    before its first prediction. Empty documents are skipped.

    An encoder-decoder predicts the noise spans of T5's span corruption (3 tokens a span on average,
    15% of the text) in windows of at most ``row_length`` tokens. The spans are drawn with a fixed
    seed, so they are the same for all models with one tokenizer. Its bits per byte are of another
    task, the continuation of text (`regrow.evaluation.continuation`), which is the same for all
    models.

    Args:
        batch_tokens: Upper bound on the tokens in a forward pass, padding included. A pass has at
            least one window.
        precision: Of matrix products.
        bits: Whether to measure bits per byte of an encoder-decoder, which takes another pass, and
            what tokenization loses.

    Raises:
        UserError: the documents hold no token, `Head` cannot express the model's head, or the
            tokenizer of an encoder-decoder has no sentinels.
    """
    texts = list(documents)
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        samples = corrupt_text(texts, tokenizer, model.config, row_length, _SEED)
        tokens_loss, tokens = _span_corruption_loss(model, samples, batch_tokens, precision)
        nats, size, lost = 0.0, 0, LostText(0.0, 0.0)
        if bits:
            lost = lost_text(texts, [ids.tolist() for ids in tokenise(texts, tokenizer)], tokenizer)
            nats, size = continuation_loss(
                model, tokenizer, texts, batch_tokens=batch_tokens, precision=precision
            )
        per_byte = nats / math.log(2) / size if size else None
        return HeldoutLoss(
            tokens_loss, per_byte, tokens, size, "what is taken out", lost.unknown, lost.bytes
        )
    start, _ = start_and_end(tokenizer)
    windows: list[_Window] = []
    encoded = list(tokenise(texts, tokenizer))
    for ids in encoded:
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
        batches = list(_by_length(windows, batch_tokens))
        for batch in told(batches, "measuring the loss, batch"):
            inputs, targets, predicts = (part.to(device) for part in _padded(batch))
            hidden = hidden_states(model, input_ids=inputs)
            loss, _ = head.loss(hidden[predicts], targets[predicts])
            nats += loss.item()

    tokens = sum(len(targets) for _, targets in windows)
    size = sum(len(text.encode()) for text in texts)
    lost = LostText(0.0, 0.0)
    if bits:
        lost = lost_text(texts, [ids.tolist() for ids in encoded], tokenizer)
    return HeldoutLoss(
        loss_per_token=nats / tokens,
        bits_per_byte=nats / math.log(2) / size,
        tokens=tokens,
        bytes=size,
        predicts="every token",
        unknown=lost.unknown,
        lost=lost.bytes,
    )


def text_loss(
    model: Any, tokenizer: Any, text: Path, *, bits: bool = True, reading: Reading = PLAIN_TEXT
) -> HeldoutLoss:
    """`heldout_loss` over a text file, in windows of at most 512 tokens, in training's precision.

    `reading`: how the file is read; not as conversations, for which there is
    `regrow.evaluation.answer_loss`.

    In bf16 this takes half the time of float32, and gives 0.0003 to 0.0007 nats per token more
    (SmolLM2-135M).
    """
    row_length = min(_ROW_LENGTH, learned_positions(model) or _ROW_LENGTH)
    documents = read_documents(text, reading)
    return heldout_loss(
        model, tokenizer,
        map(TextWithSpecialTokens, documents) if reading.special_tokens else documents,
        row_length=row_length, precision="auto", bits=bits,
    )  # fmt: skip


def _span_corruption_loss(
    model: nn.Module, samples: CorruptedText, batch_tokens: int, precision: Precision
) -> tuple[float, int]:
    """Nats per token over all windows, and the number of tokens."""
    loss = Seq2Seq()
    loss.check(model)
    rows = np.arange(len(samples))
    return mean_loss(model, loss, samples, rows, batch_tokens, precision)


@contextmanager
def _measuring(model: nn.Module, precision: Precision) -> Iterator[torch.device]:
    """Evaluation mode without gradients, in this precision. Gives the model's device."""
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), autocast(precision, device):
            yield device
    finally:
        model.train(was_training)


def _by_length(windows: Sequence[_Window], batch_tokens: int) -> Iterable[Sequence[_Window]]:
    """Batches of windows of similar lengths, the longest first."""
    ordered = sorted(windows, key=lambda window: -len(window[0]))
    first = 0
    while first < len(ordered):
        count = max(1, batch_tokens // len(ordered[first][0]))
        yield ordered[first : first + count]
        first += count


def _padded(batch: Sequence[_Window]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Inputs, targets, and whether a slot has a target; [windows, longest] each.

    Windows are padded on the right, so causal attention never sees the padding and needs no mask.
    """
    shape = (len(batch), max(len(inputs) for inputs, _ in batch))
    padded = np.zeros((2, *shape), dtype=np.int64)
    predicts = np.zeros(shape, dtype=np.bool_)
    for row, (inputs, targets) in enumerate(batch):
        padded[0, row, : len(inputs)] = inputs
        padded[1, row, : len(targets)] = targets
        predicts[row, : len(inputs)] = True
    return torch.from_numpy(padded[0]), torch.from_numpy(padded[1]), torch.from_numpy(predicts)
