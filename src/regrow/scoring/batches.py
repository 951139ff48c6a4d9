"""Calibration text as batches of token ids, for the forward passes of `observe`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from regrow.common.errors import UserError
from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, DenoisingTokens, noise_and_spans
from regrow.objectives.rows.examples import draw_spans, write_examples
from regrow.objectives.rows.span_corruption import decoder_start
from regrow.scoring.calibration import Calibration, Pieces


@dataclass(frozen=True, eq=False)
class TextBatch:
    """Texts of a batch, padded on the right.

    `ids`, `is_text`: the token ids and where they are no padding, [texts, tokens]; of an
    encoder-decoder, those of the encoder. `decoder_ids`, `decoder_is_text`: those of the decoder,
    [texts, target tokens]; None in a decoder-only model. `labels`: the token that each position of
    the decoder predicts, or NOT_PREDICTED; None where no loss is computed.
    """

    ids: Tensor
    is_text: Tensor
    decoder_ids: Tensor | None = None
    decoder_is_text: Tensor | None = None
    labels: Tensor | None = None


def without_loss(calibration: Calibration, config: Any, batch_tokens: int) -> Iterator[TextBatch]:
    """The text as it is. An encoder-decoder reads it in the encoder, and again in the decoder.

    `config`: of the model. `batch_tokens`: bound on the tokens of a batch, padding included.
    """
    for array, mask in calibration.batches(batch_tokens):
        ids, is_text = torch.from_numpy(array), torch.from_numpy(mask)
        if not config.is_encoder_decoder:
            yield TextBatch(ids, is_text)
            continue
        start = torch.full_like(ids[:, :1], decoder_start(config))
        yield TextBatch(ids, is_text, torch.cat([start, ids[:, :-1]], dim=1), is_text)


def with_loss(calibration: Calibration, config: Any, batch_tokens: int) -> Iterator[TextBatch]:
    """The text with labels: the next token, or of an encoder-decoder the spans of span corruption.

    Raises UserError where the text predicts nothing.
    """
    if config.is_encoder_decoder:
        if calibration.denoising is None:
            raise ValueError("span corruption needs the sentinels of the tokenizer")
        yield from _corrupted(calibration, calibration.denoising, batch_tokens)
        return
    longer = tuple(piece for piece in calibration.pieces if len(piece) > 1)
    if not longer:
        raise UserError("calibration: each document is a single token; give longer documents")
    for array, mask in Calibration(longer).batches(batch_tokens):
        labels = np.full_like(array, NOT_PREDICTED)
        labels[:, :-1][mask[:, 1:]] = array[:, 1:][mask[:, 1:]]
        yield TextBatch(
            torch.from_numpy(array), torch.from_numpy(mask), labels=torch.from_numpy(labels)
        )


def _corrupted(
    calibration: Calibration, denoising: DenoisingTokens, batch_tokens: int
) -> Iterator[TextBatch]:
    first = 0
    for array, _ in calibration.batches(batch_tokens):
        group = calibration.pieces[first : first + len(array)]
        numbers = np.arange(first, first + len(group))
        first += len(group)
        made = _examples(group, numbers, denoising, calibration.seed)
        source, target = made["input_ids"], made["decoder_input_ids"]
        yield TextBatch(
            torch.from_numpy(source),
            torch.from_numpy(made["attention_mask"]).bool(),
            torch.from_numpy(target),
            torch.from_numpy(made["labels"] != NOT_PREDICTED),
            torch.from_numpy(made["labels"]),
        )


def _examples(group: Pieces, numbers: Any, denoising: DenoisingTokens, seed: int) -> Any:
    lengths = np.array([len(piece) for piece in group], dtype=np.int64)
    noise, spans = noise_and_spans(
        lengths,
        np.full(len(group), SPAN_CORRUPTION.mean_span),
        np.full(len(group), SPAN_CORRUPTION.rate),
    )
    line = np.concatenate(group).astype(np.int32)
    drawn = draw_spans(seed, numbers, lengths, noise, spans)
    return write_examples(line, np.cumsum(lengths) - lengths, drawn, None, denoising)
