"""Learn to answer prompts: the loss on answers alone, for decoders and encoder-decoders."""

from typing import Any

from regrow.corpus.samples import Samples
from regrow.objectives.losses.loss import TokenLoss
from regrow.objectives.losses.prefix_lm import PrefixAttention, PrefixLM
from regrow.objectives.pairs import pair_loss_and_rows
from regrow.objectives.rows.answered_texts import one_in_a_row, pack_answers
from regrow.objectives.rows.prompt_answers import Answers, PromptAnswers


def answer_loss_and_rows(
    answers: Answers,
    config: Any,
    seed: int,
    *,
    prefix: PrefixAttention = "causal",
    shared_rows: bool,
) -> tuple[TokenLoss, Samples]:
    """The loss on answers, and the rows that it is computed on.

    Several short examples share a row, and none sees another. Without `shared_rows` each has a row.

    Args:
        answers: Prompts and answers; for encoder-decoders, pairs.
        config: Of the model.
        seed: Decides which examples share a row.
        prefix: How a decoder attends within the first prompt. Encoder-decoders ignore it.
        shared_rows: Whether examples share a row; the model must then keep them apart.
    """
    if config.is_encoder_decoder:
        if not isinstance(answers, PromptAnswers):
            raise ValueError("an encoder-decoder learns pairs of a prompt and its answer")
        return pair_loss_and_rows(answers, answers.tokens, config, seed, shared_rows=shared_rows)
    texts = answers.as_texts() if isinstance(answers, PromptAnswers) else answers
    return PrefixLM(prefix), pack_answers(texts, seed) if shared_rows else one_in_a_row(texts)
