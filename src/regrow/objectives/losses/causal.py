"""Next-token prediction."""

from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.losses.head import check_head, head_of, hidden_states
from regrow.objectives.losses.loss import TensorBatch


class Causal:
    """Next-token prediction over packed rows (`regrow.corpus.packing.PackedText`).

    No attention mask is passed. transformers separates packed documents by their positions, which
    restart with each document (`transformers.masking_utils.find_packed_sequence_indices`). It does
    so with sdpa and eager, in full and in sliding attention.
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
