"""Let transformers continue prompts: many at once, padded, and only what is new comes back."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regrow.models.decoding import CACHE_ARGUMENT, layer_states
from regrow.models.loading import library_errors


def plain_config(model: Any, most_tokens: int) -> Any:
    """A copy of a model's own settings of generation: greedy, at most so many new tokens.

    Its suppressed ids and its end tokens stay.
    """
    config = copy.deepcopy(model.generation_config)
    config.do_sample = False
    config.num_beams = 1
    config.temperature = config.top_p = config.top_k = None
    config.max_length = None
    config.max_new_tokens = most_tokens
    config.return_dict_in_generate = True
    return config


def continued(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad: int,
    begin: Sequence[int] = (),
    **options: Any,
) -> Tensor:
    """The new tokens after some prompts, [prompts, new tokens], padded behind their end.

    Arguments and errors are those of `continued_with_cache`.
    """
    return continued_with_cache(model, prompts, pad, begin, **options)[0]


@torch.inference_mode()
def continued_with_cache(
    model: Any,
    prompts: Sequence[Sequence[int]],
    pad: int,
    begin: Sequence[int] = (),
    **options: Any,
) -> tuple[Tensor, Any]:
    """`continued`, and the cache of the model at the end; None if it has none.

    Args:
        model: Of transformers, in evaluation mode.
        prompts: The tokens of each, which are padded to one batch.
        pad: The token that fills a batch.
        begin: The first tokens of an encoder-decoder's decoder, beginning with its start token.
        options: Of `generate`.

    Raises:
        UserError: transformers cannot generate with this model.
    """
    device = next(model.parameters()).device
    width = max(map(len, prompts))
    # A decoder continues its last token, so it is padded on the left. An encoder is padded behind
    # the text, so that the positions of the text are those without padding.
    on_the_right = model.config.is_encoder_decoder
    inputs = {
        "input_ids": [_padded(list(each), width, pad, on_the_right) for each in prompts],
        "attention_mask": [_padded([1] * len(each), width, 0, on_the_right) for each in prompts],
    }
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = [list(begin)] * len(prompts)
    given = len(begin) if model.config.is_encoder_decoder else width
    tensors = {name: torch.tensor(rows, device=device) for name, rows in inputs.items()}
    name = getattr(model, "name_or_path", "") or "model"
    with library_errors(f"{name}: transformers cannot generate text"):
        output = model.generate(**tensors, **options)
    return output.sequences[:, given:], getattr(output, CACHE_ARGUMENT, None)


def cached_bytes(cache: Any) -> int | None:
    """Bytes of the keys and values, or other states, of a cache of transformers.

    None if it has another form than those with layers, so that they cannot be counted.
    """
    names = ("self_attention_cache", "cross_attention_cache")  # an encoder-decoder's
    parts = [getattr(cache, name) for name in names if hasattr(cache, name)] or [cache]
    if not all(hasattr(part, "layers") for part in parts):
        return None
    layers = [layer for part in parts for layer in part.layers]
    return sum(state.nbytes for layer in layers for state in layer_states(layer))


def _padded(values: list[int], width: int, filler: int, on_the_right: bool) -> list[int]:
    padding = [filler] * (width - len(values))
    return values + padding if on_the_right else padding + values
