"""Let transformers continue prompts: many at once, padded, and only what is new comes back."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from regrow.models.decoding import CACHE_ARGUMENT, layer_states
from regrow.models.loading import library_errors

_KEPT = (
    "pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id",
    "forced_bos_token_id", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids",
    "sequence_bias", "min_length", "repetition_penalty", "no_repeat_ngram_size",
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size", "remove_invalid_values",
    "renormalize_logits",
)  # fmt: skip
"""A model's own settings that belong to its text: its special tokens, those that it never writes,
and its penalties. Others make `generate` another method, draw from fewer tokens, end a text early,
or need what it is not given."""


def plain_config(model: Any, most_tokens: int) -> GenerationConfig:
    """A copy of a model's own settings of generation: greedy, at most so many new tokens.

    Its special, suppressed and end tokens stay, and its penalties for what is repeated.
    """
    own = {name: copy.deepcopy(getattr(model.generation_config, name, None)) for name in _KEPT}
    return GenerationConfig(
        **own, do_sample=False, num_beams=1, max_new_tokens=most_tokens,
        return_dict_in_generate=True,
    )  # fmt: skip


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
        options: Of `generate`; of its settings, what is None is the default of transformers.

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
    # With settings that are given, the model's own would fill in what those leave open.
    own = _without_settings(model) if "generation_config" in options else nullcontext()
    with library_errors(f"{name}: transformers cannot generate text"), own:
        output = model.generate(**tensors, **options)
    return output.sequences[:, given:], getattr(output, CACHE_ARGUMENT, None)


@contextmanager
def _without_settings(model: Any) -> Iterator[None]:
    """Context manager: the model has no settings of generation."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


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
