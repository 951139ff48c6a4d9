"""Text that a model generates for the requests of lm-eval, until a stop sequence."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from lm_eval.models.utils import (
    handle_stop_sequences,
    normalize_gen_kwargs,
    postprocess_generated_text,
)
from lm_eval.models.utils_hf import stop_sequences_criteria

from regrow.common.precision import Precision, autocast
from regrow.evaluation.harness.encoding import Encoding
from regrow.evaluation.harness.scores import batches_by_size
from regrow.models.generating import continued

MAX_NEW_TOKENS = 256
"""Of a request that names no number, as in lm-eval."""
_SEED_DIGITS = 15
"""Hexadecimal digits of a seed: 60 bits."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to continue.

    Attributes:
        key: Names the prompt: a hash, which also decides what is drawn.
        tokens: What the model reads.
        settings: Of the generation, as a task of lm-eval names them.
    """

    key: str
    tokens: tuple[int, ...]
    settings: dict[str, Any]

    @cached_property
    def new_tokens(self) -> int:
        """The most tokens that are generated."""
        return int(normalize_gen_kwargs(self.settings, MAX_NEW_TOKENS)["max_gen_toks"])

    @property
    def widths(self) -> tuple[int]:
        return (len(self.tokens) + self.new_tokens,)


def draws(settings: Any) -> bool:
    """Whether tokens are drawn at random with these settings; else the likeliest are taken."""
    return bool(normalize_gen_kwargs(settings, MAX_NEW_TOKENS)["do_sample"])


def generated_texts(
    model: Any,
    encoding: Encoding,
    prompts: Sequence[Prompt],
    *,
    window: int,
    batch_tokens: int,
    precision: Precision,
) -> Iterator[list[tuple[Prompt, str]]]:
    """The texts that follow the prompts, batch by batch.

    Where tokens are drawn, each text is generated alone, and its key is the seed. So it does not
    depend on the other texts, nor on what was generated before.

    Args:
        model: Of transformers, in evaluation mode.
        encoding: How its texts are encoded.
        prompts: With equal settings in all of them, since a batch has one.
        window: The most tokens that the model reads; see `Encoding.within`.
        batch_tokens: Upper bound on the slots of a batch.
        precision: Of the matrix products.
    """
    if draws(prompts[0].settings):
        device = next(model.parameters()).device
        for prompt in prompts:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(int(prompt.key[:_SEED_DIGITS], 16))
                (text,) = _generate(model, encoding, [prompt], window, precision)
            yield [(prompt, text)]
        return
    for batch in batches_by_size(prompts, batch_tokens):
        texts = _generate(model, encoding, batch, window, precision)
        yield [*zip(batch, texts, strict=True)]


def _generate(
    model: Any, encoding: Encoding, batch: Sequence[Prompt], window: int, precision: Precision
) -> list[str]:
    tokenizer = encoding.tokenizer
    options: dict[str, Any] = dict(normalize_gen_kwargs(batch[0].settings, MAX_NEW_TOKENS))
    new_tokens = options.pop("max_gen_toks")
    end = tokenizer.decode(tokenizer.eos_token_id, skip_special_tokens=False)
    until = handle_stop_sequences(options.pop("until", None), eos=end)
    if not options.get("do_sample"):
        options = {"do_sample": False}
    pad = tokenizer.pad_token_id
    pad = tokenizer.eos_token_id if pad is None else pad
    limit = window if encoding.is_encoder_decoder else max(1, window - new_tokens)
    read = [encoding.within(prompt.tokens, limit) for prompt in batch]
    begin = encoding.decoder_begin if encoding.is_encoder_decoder else ()
    given = len(begin) or max(map(len, read))
    with autocast(precision, next(model.parameters()).device):
        new = continued(
            model, read, pad, begin, **options, max_new_tokens=new_tokens, pad_token_id=pad,
            use_cache=True, return_dict_in_generate=True,
            stopping_criteria=stop_sequences_criteria(tokenizer, until, given, len(batch)),
        )  # fmt: skip
    texts = tokenizer.batch_decode(new, skip_special_tokens=True)
    return [postprocess_generated_text(text, until, None) for text in texts]
