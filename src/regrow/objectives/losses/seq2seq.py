"""Predict the target from the source, in an encoder-decoder."""

from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED
from regrow.models.document_attention import reads_text_by_text
from regrow.objectives.losses.head import check_head, decoder_states, head_of
from regrow.objectives.losses.objective import TensorBatch
from regrow.objectives.losses.shared_row_attention import (
    alone_in_rows,
    check_apart,
    states_of_shared_rows,
)


class Seq2Seq:
    """Next-token prediction over targets, each with its source (`CorruptedText`).

    `shared_rows`: whether examples share rows (`SharedRows`).
    """

    def __init__(self, *, shared_rows: bool = False) -> None:
        self.shared_rows = shared_rows

    @property
    def identity(self) -> str:
        return "seq2seq in shared rows" if self.shared_rows else "seq2seq"

    def check(self, model: nn.Module) -> None:
        check_head(model)
        if self.shared_rows:
            check_apart(model)

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden, targets = self.predicted(model, batch)
        return head_of(model).loss(hidden, targets)

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        """What the head reads where a token is predicted, and the tokens; see `PredictsTokens`."""
        if self.shared_rows:
            hidden = states_of_shared_rows(model, batch)
        elif reads_text_by_text(model):
            hidden = states_of_shared_rows(model, alone_in_rows(batch))
        else:
            hidden = decoder_states(
                model, batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"]
            )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]
