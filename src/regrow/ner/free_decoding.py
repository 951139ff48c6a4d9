"""Let a model write its answers freely, many at once, greedily."""

import copy
from collections.abc import Sequence
from typing import Any

import torch

from regrow.models.loading import library_errors
from regrow.objectives.prompt_form import PromptForm


@torch.inference_mode()
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
    device = next(model.parameters()).device
    begun = [*form.answer_start]
    given: dict[str, torch.Tensor] = {}
    if form.decoder_start is not None:
        first = [[form.decoder_start, *begun]] * len(sources)
        given["decoder_input_ids"] = torch.tensor(first, device=device)
    width = max(map(len, sources))
    # A decoder continues its last token, so it is padded on the left.
    ids = [_padded(list(each), width, form.pad, form.is_encoder_decoder) for each in sources]
    mask = [_padded([1] * len(each), width, 0, form.is_encoder_decoder) for each in sources]
    with library_errors(f"{model.name_or_path or 'model'}: transformers cannot generate text"):
        output = model.generate(
            input_ids=torch.tensor(ids, device=device),
            attention_mask=torch.tensor(mask, device=device),
            generation_config=_greedy_config(model, form, most_tokens),
            **given,
        )
    skipped = given.get("decoder_input_ids", torch.tensor(ids)).shape[1]
    texts: list[str] = form.tokenizer.batch_decode(
        output[:, skipped:], skip_special_tokens=True, clean_up_tokenization_spaces=False
    )
    return texts


def _padded(values: list[int], width: int, filler: int, on_the_right: bool) -> list[int]:
    padding = [filler] * (width - len(values))
    return values + padding if on_the_right else padding + values


def _greedy_config(model: Any, form: PromptForm, most_tokens: int) -> Any:
    """The model's own settings of generation, without sampling, with the end of an answer."""
    config = copy.deepcopy(model.generation_config)
    config.do_sample = False
    config.num_beams = 1
    config.temperature = config.top_p = config.top_k = None
    config.max_length = None
    config.max_new_tokens = most_tokens
    own = config.eos_token_id
    ends = own if isinstance(own, list) else [] if own is None else [own]
    config.eos_token_id = sorted({*ends, form.answer_end[-1]})
    config.pad_token_id = form.pad
    return config
