"""Learn to answer prompts: the loss on answers alone, for decoders and encoder-decoders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regrow.objectives.losses.prefix_lm import PrefixAttention
    from regrow.objectives.registry import LossAndRows
    from regrow.objectives.rows.prompt_answers import PromptAnswers


def answer_loss_and_rows(
    pairs: "PromptAnswers",
    config: Any,
    seed: int,
    *,
    prefix: "PrefixAttention" = "causal",
    shared_rows: bool = False,
) -> "LossAndRows":
    """The loss on answers, and the rows that it is computed on.

    Several short pairs share a row, and none sees another.

    Args:
        pairs: Prompts and answers.
        config: Of the model.
        seed: Decides which pairs share a row.
        prefix: How a decoder attends within a prompt. Encoder-decoders ignore it.
        shared_rows: Whether pairs of an encoder-decoder share a row. Decoders ignore it.
    """
    if config.is_encoder_decoder:
        from regrow.objectives.losses.seq2seq import Seq2Seq
        from regrow.objectives.rows.shared_rows import make_shared_rows

        if not shared_rows:
            return Seq2Seq(), pairs
        hidden = getattr(config, "decoder", config).hidden_size
        return Seq2Seq(shared_rows=True), make_shared_rows(pairs, pairs.tokens, seed, hidden)
    from regrow.objectives.losses.prefix_lm import PrefixLM
    from regrow.objectives.rows.prompt_answers import pack_prompt_answers

    return PrefixLM(prefix), pack_prompt_answers(pairs, seed)
