"""Let a model write its answers freely, many at once, greedily."""

from collections.abc import Sequence
from typing import Any

from regrow.models.generating import continued, plain_config
from regrow.objectives.prompt_form import PromptForm


def write_answers(
    model: Any, form: PromptForm, sources: Sequence[Sequence[int]], most_tokens: int
) -> list[str]:
    """The greedy answers of a model to some prompts.

    Args:
        model: Of transformers, in evaluation mode.
        form: How it reads a prompt.
        sources: The tokens of each prompt; they are padded to one batch.
        most_tokens: Tokens of an answer at most.

    Raises:
        UserError: transformers cannot generate with this model.
    """
    begin = () if form.decoder_start is None else (form.decoder_start, *form.answer_start)
    config = plain_config(model, most_tokens)
    own = config.eos_token_id
    ends = own if isinstance(own, list) else [] if own is None else [own]
    config.eos_token_id = sorted({*ends, form.answer_end[-1]})
    config.pad_token_id = form.pad
    new = continued(model, sources, form.pad, begin, generation_config=config)
    texts: list[str] = form.tokenizer.batch_decode(
        new, skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts
