"""Held-out loss of each component of a mixture, on the same text in every measurement."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from regrow.common.errors import UserError
from regrow.common.identity import identity_of
from regrow.common.precision import Precision, autocast
from regrow.common.progress import tell_part
from regrow.corpus.packing import pack
from regrow.corpus.samples import Samples
from regrow.corpus.windows import cut_windows
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.prefix_lm import PrefixAttention, PrefixLM
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.denoisers import UL2, Denoiser
from regrow.objectives.rows.single_row import ConcatenatedPairs
from regrow.objectives.rows.span_corruption import (
    CorruptedText,
    check_sentinels,
    corrupt_text,
    denoising_tokens,
)

_SEED = 0
"""Seed of the noise spans in held-out text; fixed, so that all models are measured alike."""


@dataclass(frozen=True, eq=False)
class HeldoutComponents:
    """The held-out text of each component.

    Attributes:
        loss: What is measured.
        samples: By the name of the component.
        rows: The rows of each component's samples that are measured. A row is read as the sample
            with the number of the row.
        batch_tokens: As in `mean_loss`.
        precision: As in training, because references are compared with losses in training.
    """

    loss: Loss
    samples: Mapping[str, Samples]
    rows: Mapping[str, NDArray[np.int64]]
    batch_tokens: int = 4096
    precision: Precision = "auto"

    @property
    def identity(self) -> str:
        """A hash of the loss, all held-out text and its noise spans."""
        return identity_of(
            "held-out parts",
            objective=self.loss.identity,
            samples={name: samples.identity for name, samples in self.samples.items()},
            rows=self.rows,
        )

    def losses(self, model: nn.Module) -> dict[str, float]:
        """Losses by component in nats per token, in evaluation mode."""
        return {
            name: mean_loss(
                model, self.loss, samples, self.rows[name], self.batch_tokens, self.precision
            )[0]
            for name, samples in self.samples.items()
        }


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    loss: Loss,
    samples: Samples,
    rows: NDArray[np.int64],
    batch_tokens: int,
    precision: Precision,
) -> tuple[float, int]:
    """The loss over these rows in nats per token, in evaluation mode, and the number of tokens.

    A row is read as the sample with the number of the row. `batch_tokens`: upper bound on the text
    tokens in a forward pass, which has at least one row.
    """
    device = next(model.parameters()).device
    lengths = samples.lengths(rows)
    order = np.argsort(-lengths, kind="stable")
    rows, lengths = rows[order], lengths[order]
    nats, tokens, first = 0.0, 0, 0
    was_training = model.training
    model.eval()
    try:
        while first < len(rows):
            tell_part("measuring the loss, row", first, len(rows))
            some = rows[first : first + max(1, batch_tokens // int(lengths[first]))]
            arrays = samples.batch(some, some)
            batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            with autocast(precision, device):
                summed, each = loss(model, batch)
            nats, tokens, first = nats + summed.item(), tokens + len(each), first + len(some)
        tell_part("measuring the loss, row", first, len(rows))
    finally:
        model.train(was_training)
    return nats / tokens, tokens


def heldout_denoisers(
    documents: Iterable[str],
    tokenizer: Any,
    config: Any,
    row_length: int,
    tokens: int,
    denoisers: Mapping[str, Denoiser] = UL2,
    prefix: PrefixAttention = "causal",
) -> HeldoutComponents:
    """Held-out text for each denoiser: the same windows, evenly spread over the documents.

    Args:
        config: Of the model, for the token that its decoder begins with.
        row_length: Upper bound on the tokens in a window.
        tokens: About how many tokens the windows have together.
        denoisers: The components, by name.
        prefix: How a decoder attends within the prefix of a row.

    Raises:
        UserError: the tokenizer has too few sentinels, or the documents hold no token.
    """
    special_tokens = denoising_tokens(tokenizer, config)
    windows = cut_windows(documents, tokenizer, row_length)
    for denoiser in denoisers.values():
        check_sentinels(special_tokens, int(windows.lengths.max()), denoiser)
    pairs: dict[str, Samples] = {
        name: CorruptedText(windows, denoiser, special_tokens, _SEED)
        for name, denoiser in denoisers.items()
    }
    rows = dict.fromkeys(pairs, evenly_spaced_rows(next(iter(pairs.values())), tokens))
    if config.is_encoder_decoder:
        return HeldoutComponents(Seq2Seq(), pairs, rows)
    single_rows = {
        name: ConcatenatedPairs(each, special_tokens.start, special_tokens.pad)
        for name, each in pairs.items()
    }
    return HeldoutComponents(PrefixLM(prefix), single_rows, rows)


def heldout_texts(
    texts: Mapping[str, Iterable[str]], tokenizer: Any, config: Any, row_length: int, tokens: int
) -> HeldoutComponents:
    """Held-out text for each source of text, by name; about `tokens` tokens each.

    For a decoder, every token is predicted, in packed rows of `row_length` tokens. For an
    encoder-decoder, the text is corrupted as in T5, in windows of at most `row_length` tokens.

    Raises UserError, with the name of the text, if a text does not fill a row or the tokenizer does
    not fit.
    """
    is_encoder_decoder = config.is_encoder_decoder
    found: dict[str, Samples] = {}
    for name, documents in texts.items():
        try:
            found[name] = (
                corrupt_text(documents, tokenizer, config, row_length, _SEED)
                if is_encoder_decoder
                else pack(documents, tokenizer, row_length)
            )
        except UserError as error:
            raise UserError(f"data.heldout: {name}: {error}") from None
    rows = {name: evenly_spaced_rows(samples, tokens) for name, samples in found.items()}
    return HeldoutComponents(Seq2Seq() if is_encoder_decoder else Causal(), found, rows)


def evenly_spaced_rows(samples: Samples, tokens: int) -> NDArray[np.int64]:
    """Rows at equal distances that together hold about `tokens` tokens; at least one."""
    rows = np.arange(len(samples))
    mean = samples.lengths(rows).mean()
    count = min(len(rows), max(1, round(tokens / mean)))
    found: NDArray[np.int64] = np.arange(count) * len(rows) // count
    return found
