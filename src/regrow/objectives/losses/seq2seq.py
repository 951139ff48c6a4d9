"""Sequence to sequence: an encoder-decoder predicts a target from its source."""

from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED
from regrow.models.document_attention import uses_document_attention
from regrow.objectives.losses.head import check_head, decoder_states, head_of
from regrow.objectives.losses.loss import TensorBatch
from regrow.objectives.losses.shared_row_attention import (
    check_shared_rows,
    one_example_per_row,
    states_of_shared_rows,
)


class Seq2Seq:
    """Next-token prediction over targets, each with its source (`CorruptedText`).

    `shared_rows`: whether several examples share a row (`SharedRows`).
    """

    def __init__(self, *, shared_rows: bool = False) -> None:
        self.shared_rows = shared_rows

    @property
    def identity(self) -> str:
        return "seq2seq in shared rows" if self.shared_rows else "seq2seq"

    def check(self, model: nn.Module) -> None:
        check_head(model)
        if self.shared_rows:
            check_shared_rows(model)

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden, targets = self.predicted(model, batch)
        return head_of(model).loss(hidden, targets)

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """The head's inputs at predicted tokens, and the tokens; see `TokenLoss`."""
        if self.shared_rows:
            hidden = states_of_shared_rows(model, batch)
        elif uses_document_attention(model):
            hidden = states_of_shared_rows(model, one_example_per_row(batch))
        else:
            hidden = decoder_states(
                model, batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"]
            )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]
