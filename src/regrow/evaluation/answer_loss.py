"""Loss on the answers of conversations that the model was not trained on."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from regrow.common.precision import Precision
from regrow.corpus.encoding import encode
from regrow.evaluation.heldout import HeldoutLoss
from regrow.evaluation.heldout_components import mean_loss
from regrow.evaluation.lost_text import lost_text
from regrow.objectives.conversations import prepare_conversations
from regrow.objectives.losses.head import learned_positions
from regrow.objectives.losses.loss import Loss
from regrow.objectives.losses.prefix_lm import PrefixAttention, PrefixLM
from regrow.objectives.losses.seq2seq import Seq2Seq
from regrow.objectives.rows.answered_texts import one_in_a_row
from regrow.objectives.rows.prompt_answers import Answers, PromptAnswers

MEASURED = "the most that is measured"
"""What the number of tokens is, in words."""
LONGEST = 2_048
"""Tokens of a conversation, or of an answer with its prompt, that is measured."""
_BATCH_TOKENS = 4_096


def answer_loss(
    model: Any, answers: Answers, *, precision: Precision, prefix: PrefixAttention = "causal"
) -> tuple[float, int]:
    """Nats per answer token, with the tokens that end an answer, and the number of tokens."""
    loss: Loss
    if isinstance(answers, PromptAnswers) and model.config.is_encoder_decoder:
        loss = Seq2Seq()
        rows: Any = answers
    else:
        loss = PrefixLM(prefix)
        texts = answers.as_texts() if isinstance(answers, PromptAnswers) else answers
        rows = one_in_a_row(texts)
    every = np.arange(len(rows))
    return mean_loss(model, loss, rows, every, _BATCH_TOKENS, precision)


def conversation_loss(
    model: Any,
    tokenizer: Any,
    conversations: Iterable[str],
    *,
    precision: Precision = "auto",
    bits: bool = True,
    prefix: PrefixAttention = "causal",
) -> HeldoutLoss:
    """The loss on the answers of conversations, each of which is read alone.

    Bits per byte count the bytes of the answers' words. Conversations of more than 2,048 tokens,
    or of more than the positions of the model, are left out.

    Args:
        model: A decoder or an encoder-decoder.
        tokenizer: Of the model.
        conversations: As `regrow.corpus.conversations.as_document` writes them.
        precision: Of matrix products.
        bits: Whether to measure bits per byte.
        prefix: How a decoder attends within the first prompt.

    Raises:
        UserError: no conversation is left, or the model has no form for prompts.
    """
    longest = min(LONGEST, learned_positions(model) or LONGEST)
    prepared = prepare_conversations(
        conversations, tokenizer, model.config, longest, keep_words=bits, limit=MEASURED
    )
    loss, tokens = answer_loss(model, prepared.answers, precision=precision, prefix=prefix)
    if not bits:
        return HeldoutLoss(loss, None, tokens, 0, "answers")
    words = prepared.words
    lost = lost_text(words, encode(words, tokenizer), tokenizer)
    size = sum(len(each.encode()) for each in words)
    per_byte = loss * tokens / math.log(2) / size
    return HeldoutLoss(loss, per_byte, tokens, size, "answers", lost.unknown, lost.bytes)
