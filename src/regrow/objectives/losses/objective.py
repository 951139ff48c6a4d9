"""What a training loop asks of an objective."""

from typing import Protocol

import torch
from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED

TensorBatch = dict[str, Tensor]
"""A batch of `regrow.corpus.samples.Samples` on the model's device."""


def examples_of(batch: TensorBatch) -> Tensor:
    """Which sample of a batch each predicted token is of, [tokens].

    Of rows that examples share, which example (`regrow.objectives.rows.shared_rows`).
    """
    predicts = batch["labels"] != NOT_PREDICTED
    owners = batch.get("examples")
    if owners is None:
        owners = torch.arange(len(predicts), device=predicts.device)[:, None].expand_as(predicts)
    return owners[predicts]


class Objective(Protocol):
    """Something to learn from a batch: its loss, summed and of each token."""

    @property
    def identity(self) -> str:
        """The name and all settings; a run resumes only under the same."""

    def check(self, model: nn.Module) -> None:
        """Raises UserError where the model cannot learn this; called before training."""

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The loss in nats summed over the predicted tokens, a scalar; that of each, [tokens].

        In the order of the ``labels`` of the batch. Only the sum has a gradient.
        """


class PredictsTokens(Objective, Protocol):
    """An objective whose loss is the cross-entropy of tokens; they can be distilled too."""

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """What the head reads where a token is predicted, [tokens, hidden]; the tokens, [tokens].

        Of the batch it reads tokens by `input_ids` and `decoder_input_ids` alone.
        """
