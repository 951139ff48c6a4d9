"""Text generation."""

import math
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import as_part
from regrow.models.generating import cached_bytes, continued_with_cache, plain_config
from regrow.models.loading import library_errors
from regrow.objectives.losses.head import learned_positions
from regrow.objectives.rows.span_corruption import decoder_start
from regrow.objectives.special_tokens import sentinel_ids
from regrow.tokenizers.chat_rendering import render_chat

_LARGEST_SEED = 2**64 - 1
_CONTINUE = "<S>"
"""UL2's mode token for continuing a text."""


def generate(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int,
    *,
    chat: bool | None = None,
) -> str:
    """A model's greedy continuation of a prompt, or its answer in a chat; without the prompt.

    An encoder-decoder whose tokenizer has UL2's `<S>` reads `<S> prompt <extra_id_0>`, and its
    decoder continues after `<extra_id_0>` (OpenBA-V2 report, evaluation). All others read the
    prompt as it is.

    Args:
        chat: Whether to put the prompt as a user's turn into the tokenizer's chat template. None
            does so if there is a template.

    Raises:
        UserError: ``chat`` is True and there is no template, or the prompt has no token.
    """
    return generate_or_stop(model, tokenizer, prompt, max_new_tokens, chat=chat)[0]


def generate_or_stop(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    max_new_tokens: int,
    *,
    chat: bool | None = None,
) -> tuple[str, bool]:
    """As `generate`, and whether the text stopped before the model's end.

    It stops at ``max_new_tokens``, or where the model knows no more positions.
    """
    inputs = _read(model, tokenizer, prompt, chat)
    room = _room(model, inputs)
    most = max_new_tokens if room is None else min(max_new_tokens, room)
    new = _new_tokens(model, tokenizer, inputs, most)
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    ends = _end_tokens(model, tokenizer)
    return text, len(new) == most and int(new[-1]) not in ends


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: The logits are divided by it; 0 takes the likeliest token.
        seed: Decides the random numbers.
    """

    temperature: float = 0.0
    seed: int = 0


def generate_text(
    model: ModelDirectory,
    prompt: str,
    max_new_tokens: int,
    *,
    chat: bool | None = None,
    sampling: Sampling = Sampling(),
) -> str:
    """`generate` with a model that is loaded first, greedy or with sampling.

    Raises UserError if the prompt is empty, the model knows fewer positions than prompt and new
    tokens have, or transformers cannot load the model or the tokenizer.
    """
    if not prompt:
        raise UserError("the prompt holds no token; give some text")
    if not 0 <= sampling.temperature < math.inf:
        raise UserError("0 or more is wanted", key="temperature", value=f"{sampling.temperature:g}")
    if not 0 <= sampling.seed <= _LARGEST_SEED:
        raise UserError(
            f"a number from 0 to {_LARGEST_SEED} is wanted", key="seed", value=f"{sampling.seed}"
        )
    model.checkpoint  # noqa: B018 - a checkpoint that cannot be read is refused in one line
    tokenizer = model.tokenizer
    loaded = model.load(dtype="auto")
    inputs = _read(loaded, tokenizer, prompt, chat)
    room = _room(loaded, inputs)
    if room is not None and max_new_tokens > room:
        raise UserError(
            f"the model knows too few positions for {len(inputs.tokens)} tokens of prompt and so "
            f"many new ones; give at most {room}",
            key="max_new_tokens",
            value=max_new_tokens,
        )
    with torch.random.fork_rng(), as_part("answering"):
        torch.manual_seed(sampling.seed)
        new = _new_tokens(
            loaded, tokenizer, inputs, max_new_tokens, temperature=sampling.temperature
        )
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


@dataclass(frozen=True)
class TimedText:
    """What one greedy sequence took.

    Attributes:
        seconds: To read the prompt and to write all tokens.
        tokens: How many tokens were written.
        cache_bytes: Of the keys and values (or other states) of prompt and new tokens at the end;
            None if they cannot be counted.
        peak_bytes: On a GPU, the most bytes of tensors beyond those that were there before; None on
            a CPU, where only the memory of the whole process is known.
    """

    seconds: float
    tokens: int
    cache_bytes: int | None
    peak_bytes: int | None


def timed_text(model: nn.Module, tokenizer: Any, prompt: str, new_tokens: int) -> TimedText:
    """Time one greedy sequence of exactly ``new_tokens`` tokens; end tokens are suppressed."""
    inputs = _read(model, tokenizer, prompt, chat=None)
    device = next(model.parameters()).device
    before = 0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    began = time.perf_counter()
    new, cache = _continued(model, tokenizer, inputs, new_tokens, exactly=True)
    written = len(new.tolist())  # `tolist` waits for the device
    seconds = time.perf_counter() - began
    peak = None
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(device) - before
    return TimedText(seconds, written, cached_bytes(cache), peak)


def seconds_per_token(model: nn.Module, tokenizer: Any, prompt: str, new_tokens: int) -> float:
    """Seconds per new token of `timed_text`, with the time to read the prompt."""
    timed = timed_text(model, tokenizer, prompt, new_tokens)
    return timed.seconds / timed.tokens


@dataclass(frozen=True)
class _Prompt:
    """The tokens that a model reads, and for an encoder-decoder the first of its decoder."""

    tokens: list[int]
    begin: list[int]


def _read(model: Any, tokenizer: Any, prompt: str, chat: bool | None) -> _Prompt:
    template = getattr(tokenizer, "chat_template", None)
    if chat and not template:
        raise UserError(
            f"{tokenizer.name_or_path or 'tokenizer'}: no chat_template; ask without chat"
        )
    if template and chat is not False:
        messages = [{"role": "user", "content": prompt}]
        text = render_chat(tokenizer, messages, add_generation_prompt=True)
        encoded = tokenizer(text, add_special_tokens=False)
    else:
        with library_errors("the tokenizer cannot encode the prompt"):
            encoded = tokenizer(prompt)
    ids = list(encoded["input_ids"])
    if not ids:
        raise UserError("the prompt holds no token; give some text")
    begin = []
    if model.config.is_encoder_decoder:
        begin = [decoder_start(model.config)]
        known, sentinels = tokenizer.get_vocab(), sentinel_ids(tokenizer)
        if _CONTINUE in known and sentinels:
            text = tokenizer(prompt, add_special_tokens=False)["input_ids"]
            ids = [known[_CONTINUE], *text, sentinels[0], tokenizer.eos_token_id]
            begin.append(sentinels[0])
    return _Prompt(ids, begin)


def _room(model: Any, prompt: _Prompt) -> int | None:
    """For how many new tokens a model knows positions; None if its positions are not learned.

    Raises UserError if it knows too few for the prompt and a token.
    """
    known = learned_positions(model)
    if known is None:
        return None
    room = known - len(prompt.begin if model.config.is_encoder_decoder else prompt.tokens)
    if room < 1 or len(prompt.tokens) > known:
        raise UserError(
            f"the prompt is {len(prompt.tokens)} tokens, and the model knows {known} positions; "
            "give a shorter one"
        )
    return room


def _new_tokens(
    model: Any,
    tokenizer: Any,
    prompt: _Prompt,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
) -> torch.Tensor:
    """The new token ids, [tokens], of `_continued`."""
    return _continued(model, tokenizer, prompt, max_new_tokens, temperature=temperature)[0]


def _continued(
    model: Any,
    tokenizer: Any,
    prompt: _Prompt,
    max_new_tokens: int,
    *,
    exactly: bool = False,
    temperature: float = 0.0,
) -> tuple[torch.Tensor, Any]:
    """The new token ids, [tokens], with the model's own suppressed ids and end tokens; the cache.

    `temperature`: 0 takes the likeliest token each time; else tokens are drawn by torch's global
    generator, from all of the vocabulary.
    """
    config = plain_config(model, max_new_tokens)
    if temperature > 0:
        config.do_sample = True
        # None would stand for the defaults of transformers, which leave most tokens out.
        config.temperature, config.top_p, config.top_k = temperature, 1.0, 0
    config.min_new_tokens = max_new_tokens if exactly else None
    if config.eos_token_id is None:
        config.eos_token_id = tokenizer.eos_token_id
    if config.pad_token_id is None:
        # One sequence is never padded, but transformers requires a pad token.
        end = config.eos_token_id
        config.pad_token_id = end[0] if isinstance(end, list) else end
    was_training = model.training
    model.eval()
    try:
        new, cache = continued_with_cache(
            model, [prompt.tokens], 0, prompt.begin, generation_config=config
        )
    finally:
        model.train(was_training)
    return new[0], cache


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """The ids at which the model ends a text."""
    end = model.generation_config.eos_token_id
    end = tokenizer.eos_token_id if end is None else end
    return set(end) if isinstance(end, list) else {end}
