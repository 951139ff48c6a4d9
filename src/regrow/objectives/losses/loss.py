"""The interface between a loss and the training loop."""

from typing import Protocol

import torch
from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED

TensorBatch = dict[str, Tensor]
"""A batch of `regrow.corpus.samples.Samples` on the model's device."""


def examples_of(batch: TensorBatch) -> Tensor:
    """The sample of each predicted token, as its index in the batch, [tokens].

    In shared rows, the index of the example instead (`regrow.objectives.rows.shared_rows`).
    """
    predicts = batch["labels"] != NOT_PREDICTED
    owners = batch.get("examples")
    if owners is None:
        owners = torch.arange(len(predicts), device=predicts.device)[:, None].expand_as(predicts)
    return owners[predicts]


class Loss(Protocol):
    """A loss that a model is trained on."""

    @property
    def identity(self) -> str:
        """Name and all settings. A training resumes only if they are the same."""

    def check(self, model: nn.Module) -> None:
        """Raises UserError if the model cannot be trained on this loss; called before training."""

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The loss in nats: the sum over predicted tokens, a scalar, and each token's, [tokens].

        Tokens are in the order of the ``labels`` of the batch. Only the sum has a gradient.
        """


class TokenLoss(Loss, Protocol):
    """A loss that is the cross-entropy of tokens. It can be combined with distillation."""

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The head's inputs at predicted tokens, [tokens, hidden], and these tokens, [tokens].

        The only token ids that it reads from the batch are `input_ids` and `decoder_input_ids`. A
        teacher with other tokens reads other rows (`StudentTokens.for_teacher`), which must know
        each array that is read here.
        """
