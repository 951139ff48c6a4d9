"""Next-token prediction."""

import torch
from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from regrow.objectives.losses.loss import TensorBatch


class Causal:
    """Next-token prediction over packed rows (`regrow.corpus.packing.PackedText`).

    No attention mask is passed. transformers separates packed documents by their positions, which
    restart with each document (`transformers.masking_utils.find_packed_sequence_indices`). It does
    so with sdpa and eager, in full and in sliding attention, but not in every class
    (:func:`keeps_texts_apart`).
    """

    identity = "causal"

    def check(self, model: nn.Module) -> None:
        check_head(model)

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden, targets = self.predicted(model, batch)
        return head_of(model).loss(hidden, targets)

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden = hidden_states(
            model, input_ids=batch["input_ids"], position_ids=batch["position_ids"]
        )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]


_TEXTS = (4, 5)
"""Tokens of the two texts of a probe."""


def keeps_texts_apart(model: nn.Module) -> bool:
    """Whether a decoder computes a text in a packed row as if it were alone.

    Recurrent models do not, and neither do some with attention, such as OPT and BLOOM, whose class
    does not give positions to the mask.
    """
    device = next(model.parameters()).device
    tokens = [torch.arange(1, 1 + length, device=device)[None] for length in _TEXTS]
    positions = [torch.arange(length, device=device)[None] for length in _TEXTS]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            together = hidden_states(
                model, input_ids=torch.cat(tokens, 1), position_ids=torch.cat(positions, 1)
            )[:, _TEXTS[0] :]
            alone = hidden_states(model, input_ids=tokens[1], position_ids=positions[1])
    finally:
        model.train(was_training)
    difference = (together.float() - alone.float()).norm() / alone.float().norm()
    return bool(difference < (1e-4 if alone.dtype == torch.float32 else 3e-2))
