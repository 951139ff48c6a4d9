"""What a training loop asks of an objective."""

from typing import Protocol

from torch import Tensor, nn

TensorBatch = dict[str, Tensor]
"""A batch of `regrow.corpus.samples.Samples` on the model's device."""


class Objective(Protocol):
    """Something to learn from a batch: summed loss, and how many tokens it is the sum of."""

    @property
    def identity(self) -> str:
        """The name and all settings; a run resumes only under the same."""

    def check(self, model: nn.Module) -> None:
        """Raises UserError where the model cannot learn this; called before training."""

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, int]:
        """The loss in nats summed over the predicted tokens (a scalar), and their number."""


class PredictsTokens(Objective, Protocol):
    """An objective whose loss is the cross-entropy of tokens; they can be distilled too."""

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """What the head reads where a token is predicted, [tokens, hidden]; the tokens, [tokens].

        Of the batch it reads tokens by `input_ids` and `decoder_input_ids` alone.
        """
