"""Learn the targets of pairs with an encoder-decoder: the loss, and the rows it is computed on."""

from typing import Any

from regrow.corpus.samples import Samples
from regrow.objectives.losses.loss import TokenLoss
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.shared_rows import make_shared_rows


def pair_loss_and_rows(
    pairs: Samples, text_tokens: int, config: Any, seed: int, *, shared_rows: bool
) -> tuple[TokenLoss, Samples]:
    """The loss on the targets of pairs, and the rows that it is computed on.

    Args:
        pairs: Samples of one source and one target each.
        text_tokens: Text tokens in all of `pairs`.
        config: Of the encoder-decoder.
        seed: For the data order of shared rows.
        shared_rows: Whether several pairs share a row; otherwise each has its own.
    """
    if not shared_rows:
        return Seq2Seq(), pairs
    hidden = getattr(config, "decoder", config).hidden_size
    return Seq2Seq(shared_rows=True), make_shared_rows(pairs, text_tokens, seed, hidden)
