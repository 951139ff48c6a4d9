"""How a model reads a prompt, and how it begins and ends its answer.

Instruction tuning trains on this form, and whoever asks the tuned model uses it again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer, encode
from regrow.corpus.packing import start_and_end
from regrow.objectives.rows.span_corruption import decoder_start
from regrow.objectives.special_tokens import sentinel_ids
from regrow.tokenizers.chat_rendering import render_chat

_CONTINUE = "<S>"
"""UL2's mode token for continuing a text."""
_FIRST = "<extra_id_0>"
"""The first sentinel."""
_PROMPT, _ANSWER = "PROMPT-HERE", "ANSWER-HERE"
"""Words that are found again in the text that a chat template gives."""


@dataclass(frozen=True)
class PromptForm:
    """The tokens around a prompt and around its answer.

    - An encoder-decoder with UL2's `<S>` reads `<S> prompt <extra_id_0> eos` and answers
      `<extra_id_0> answer eos` (OpenBA-V2 report, fine-tuning).
    - Other encoder-decoders read the prompt, and answer, as their tokenizer encodes a text.
    - A decoder with a chat template reads the prompt as a user's turn, and ends its turn.
    - Other decoders read the prompt as a line after the start of a document, and answer
      `answer eos`.

    Attributes:
        tokenizer: Of the model.
        is_encoder_decoder: Whether prompt and answer are in rows of their own.
        is_chat: Whether the prompt goes through the chat template.
        before: Tokens before the prompt; empty in a chat.
        after: Tokens after the prompt; empty in a chat.
        answer_start: Tokens before the answer. They are learned, but given when the model is asked.
        answer_end: Tokens after the answer.
        decoder_start: What the decoder of an encoder-decoder reads first; None in a decoder.
        pad: Fills rows up.
    """

    tokenizer: Tokenizer
    is_encoder_decoder: bool
    is_chat: bool
    before: tuple[int, ...]
    after: tuple[int, ...]
    answer_start: tuple[int, ...]
    answer_end: tuple[int, ...]
    decoder_start: int | None
    pad: int

    def source(self, prompt: str) -> list[int]:
        """The tokens that the model reads before it answers.

        Raises UserError if the chat template cannot be rendered.
        """
        if self.is_chat:
            return _chat_ids(self.tokenizer, [prompt])
        return [*self.before, *encode([prompt], self.tokenizer)[0], *self.after]

    def target(self, answer: Sequence[int]) -> list[int]:
        """The tokens that the model learns to write, around those of an answer."""
        return [*self.answer_start, *answer, *self.answer_end]


def prompt_form(tokenizer: Tokenizer, config: Any) -> PromptForm:
    """The form for a model with this tokenizer and this config of transformers.

    Raises UserError if the tokenizer has no eos, the config of an encoder-decoder names no start,
    or the chat template takes no prompt and answer.
    """
    start, end = start_and_end(tokenizer)
    pad = end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
    if config.is_encoder_decoder:
        return _encoder_decoder_form(tokenizer, decoder_start(config), end, pad)
    if getattr(tokenizer, "chat_template", None):
        turn_end = _turn_end(tokenizer, end)
        return PromptForm(tokenizer, False, True, (), (), (), turn_end, None, pad)
    line_end = tuple(encode(["\n"], tokenizer)[0])
    return PromptForm(tokenizer, False, False, (start,), line_end, (), (end,), None, pad)


def encoder_decoder_texts(prompt: str, answer: str) -> tuple[str, str]:
    """What an encoder-decoder with `<S>` reads and writes, with the names of special tokens.

    They stand for tokens; eos at the end of both is left to the tokenizer.
    """
    return f"{_CONTINUE} {prompt} {_FIRST}", f"{_FIRST} {answer}"


def _encoder_decoder_form(tokenizer: Tokenizer, start: int, end: int, pad: int) -> PromptForm:
    known, sentinels = tokenizer.get_vocab(), sentinel_ids(tokenizer)
    if _CONTINUE in known and sentinels:
        first = sentinels[0]
        return PromptForm(
            tokenizer, True, False, (known[_CONTINUE],), (first, end), (first,), (end,), start, pad
        )
    around = tuple(tokenizer("")["input_ids"])
    if end not in around:
        return PromptForm(tokenizer, True, False, around, (), (), (end,), start, pad)
    before = around[: around.index(end)]
    return PromptForm(tokenizer, True, False, before, (end,), before, (end,), start, pad)


def _turn_end(tokenizer: Tokenizer, end: int) -> tuple[int, ...]:
    """The tokens that end an answer in a chat: up to the first special token after it."""
    text = _rendered(tokenizer, [_PROMPT, _ANSWER])
    _, found, after = text.rpartition(_ANSWER)
    if not found or _PROMPT not in text:
        raise UserError(
            f"{tokenizer.name_or_path or 'tokenizer'}: the chat template leaves out the words of a "
            "turn; give a model with a template for user and assistant"
        )
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids} | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    for place, number in enumerate(ids):
        if number in special:
            return tuple(ids[: place + 1])
    return (*ids, end)


def _chat_ids(tokenizer: Tokenizer, turns: Sequence[str]) -> list[int]:
    ids: list[int] = tokenizer(
        _rendered(tokenizer, turns), add_special_tokens=False, verbose=False
    )["input_ids"]
    return ids


def _rendered(tokenizer: Tokenizer, turns: Sequence[str]) -> str:
    """A chat of user and assistant in turn, up to the next turn of the assistant."""
    roles = ("user", "assistant")
    messages = [{"role": roles[n % 2], "content": text} for n, text in enumerate(turns)]
    return render_chat(tokenizer, messages, add_generation_prompt=len(turns) % 2 == 1)
