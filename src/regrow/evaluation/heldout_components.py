"""Loss on text held out of each part of a mixture, the same text every time."""

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
from regrow.corpus.packing import pack
from regrow.corpus.samples import Samples
from regrow.corpus.windows import cut_windows
from regrow.objectives.losses.causal import Causal
from regrow.objectives.losses.objective import Objective
from regrow.objectives.losses.prefix_lm import Prefix, PrefixLM
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.denoisers import UL2, Denoiser
from regrow.objectives.rows.single_row import PairedRows
from regrow.objectives.rows.span_corruption import (
    CorruptedText,
    check_sentinels,
    corrupt_text,
    denoising_tokens,
)

_SEED = 0
"""Of what is taken out of a held-out text."""


@dataclass(frozen=True, eq=False)
class HeldoutComponents:
    """What is measured of each part.

    Attributes:
        samples: By the name of the part.
        rows: Of these, in each part's own; each is read as the sample of its own number.
        batch_tokens: As in `mean_loss`.
        precision: As in training: references are to be measured like what is held against them.
    """

    objective: Objective
    samples: Mapping[str, Samples]
    rows: Mapping[str, NDArray[np.int64]]
    batch_tokens: int = 4096
    precision: Precision = "auto"

    @property
    def identity(self) -> str:
        """A hash of all text that is measured, and of what is taken out of it."""
        return identity_of(
            "held-out parts",
            objective=self.objective.identity,
            samples={name: samples.identity for name, samples in self.samples.items()},
            rows=self.rows,
        )

    def losses(self, model: nn.Module) -> dict[str, float]:
        """Nats per token, by part, in evaluation mode."""
        return {
            name: mean_loss(
                model, self.objective, samples, self.rows[name], self.batch_tokens, self.precision
            )[0]
            for name, samples in self.samples.items()
        }


@torch.no_grad()
def mean_loss(
    model: nn.Module,
    objective: Objective,
    samples: Samples,
    rows: NDArray[np.int64],
    batch_tokens: int,
    precision: Precision,
) -> tuple[float, int]:
    """Nats per token over these rows, in evaluation mode, and of how many tokens.

    `batch_tokens`: bound on the tokens of text in one forward pass; at least one row is read.
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
            some = rows[first : first + max(1, batch_tokens // int(lengths[first]))]
            arrays = samples.batch(some, some)
            batch = {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
            with autocast(precision, device):
                loss, each = objective(model, batch)
            nats, tokens, first = nats + loss.item(), tokens + len(each), first + len(some)
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
    prefix: Prefix = "causal",
) -> HeldoutComponents:
    """About so many tokens of the documents, the same for each denoiser.

    They are windows of at most `row_length` tokens, evenly spread over the documents. `config`: of
    the model, for the token that its decoder begins with. `prefix`: how a decoder attends among
    tokens that are given.

    Raises UserError where the tokenizer has too few sentinels, or the documents no token.
    """
    marks = denoising_tokens(tokenizer, config)
    windows = cut_windows(documents, tokenizer, row_length)
    for denoiser in denoisers.values():
        check_sentinels(marks, int(windows.lengths.max()), denoiser)
    parts: dict[str, Samples] = {
        name: CorruptedText(windows, denoiser, marks, _SEED) for name, denoiser in denoisers.items()
    }
    rows = dict.fromkeys(parts, spread(next(iter(parts.values())), tokens))
    if config.is_encoder_decoder:
        return HeldoutComponents(Seq2Seq(), parts, rows)
    in_one = {name: PairedRows(pairs, marks.start, marks.pad) for name, pairs in parts.items()}
    return HeldoutComponents(PrefixLM(prefix), in_one, rows)


def heldout_texts(
    texts: Mapping[str, Iterable[str]], tokenizer: Any, config: Any, row_length: int, tokens: int
) -> HeldoutComponents:
    """About so many tokens of each text, by name.

    A decoder predicts all of them, in packed rows of `row_length`; an encoder-decoder fills in
    plain span corruption, in windows of at most so many.

    Raises UserError, with the name, where a text fills no row, or the tokenizer does not do.
    """
    both = config.is_encoder_decoder
    parts: dict[str, Samples] = {}
    for name, documents in texts.items():
        try:
            parts[name] = (
                corrupt_text(documents, tokenizer, config, row_length, _SEED)
                if both
                else pack(documents, tokenizer, row_length)
            )
        except UserError as error:
            raise UserError(f"data.heldout: {name}: {error}") from None
    rows = {name: spread(samples, tokens) for name, samples in parts.items()}
    return HeldoutComponents(Seq2Seq() if both else Causal(), parts, rows)


def spread(samples: Samples, tokens: int) -> NDArray[np.int64]:
    """Rows at equal distances, about so many that they hold `tokens` tokens; at least one."""
    rows = np.arange(len(samples))
    mean = samples.lengths(rows).mean()
    count = min(len(rows), max(1, round(tokens / mean)))
    found: NDArray[np.int64] = np.arange(count) * len(rows) // count
    return found
