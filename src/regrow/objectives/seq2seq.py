"""Predict the target from the source, in an encoder-decoder."""

from torch import Tensor, nn

from regrow.corpus.packing import NOT_PREDICTED
from regrow.objectives.head import check_head, decoder_states, head_of
from regrow.objectives.objective import TensorBatch


class Seq2Seq:
    """Next-token prediction over targets, each with its source (`CorruptedText`)."""

    identity = "seq2seq"

    def check(self, model: nn.Module) -> None:
        check_head(model)

    def __call__(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, int]:
        hidden, targets = self.predicted(model, batch)
        return head_of(model).loss(hidden, targets), len(targets)

    def predicted(self, model: nn.Module, batch: TensorBatch) -> tuple[Tensor, Tensor]:
        hidden = decoder_states(
            model, batch["input_ids"], batch["attention_mask"], batch["decoder_input_ids"]
        )
        predicts = batch["labels"] != NOT_PREDICTED
        return hidden[predicts], batch["labels"][predicts]
