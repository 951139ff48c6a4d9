"""How long an instruction is for a model, and whether it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.encoding import encode
from regrow.instructions.sample import Instruction
from regrow.objectives.conversations import plain_segments
from regrow.objectives.prompt_form import PromptForm, prompt_form
from regrow.tokenizers.chat_rendering import render_chat


class Lengths(NamedTuple):
    """The length of a prompt and of its answer."""

    prompt: int
    answer: int


class Room(Protocol):
    """Measures instructions, and knows what fits."""

    @property
    def unit(self) -> str:
        """`tokens` or `characters`."""
        ...

    def measure(self, instructions: Sequence[Instruction]) -> list[Lengths]: ...

    def too_long(self, lengths: Lengths) -> str:
        """Why it does not fit; empty if it does."""
        ...


@dataclass(frozen=True)
class AnyRoom:
    """Everything fits, and characters are counted."""

    unit: str = "characters"

    def measure(self, instructions: Sequence[Instruction]) -> list[Lengths]:
        """The characters of each."""
        return [
            Lengths(
                sum(len(message.content) for message in each.messages[:-1]),
                len(each.messages[-1].content),
            )
            for each in instructions
        ]

    def too_long(self, lengths: Lengths) -> str:
        """Nothing is."""
        return ""


class ModelRoom:
    """The room that a model has, in its tokens.

    Conversations have the lengths that training learns them in
    (`regrow.objectives.conversations`). What a chat template puts around a turn is measured once,
    and counted for each. Of the answers that an encoder-decoder learns one by one, the longest
    counts.
    """

    unit = "tokens"

    def __init__(
        self, model: ModelDirectory, prompt_tokens: int | None, answer_tokens: int | None
    ) -> None:
        self._form: PromptForm = prompt_form(model.tokenizer, model.config)
        self._most = Lengths(prompt_tokens or 0, answer_tokens or 0)
        self._positions = _positions(model.config)
        self._around = _around(self._form)
        self._answer = len(self._form.answer_start) + len(self._form.answer_end)

    def measure(self, instructions: Sequence[Instruction]) -> list[Lengths]:
        """The tokens of each prompt, with all that stands around it, and of each answer."""
        texts = [message.content for each in instructions for message in each.messages]
        ids = iter(encode(texts, self._form.tokenizer))
        return [
            self._lengths([(message.role, next(ids)) for message in each.messages])
            for each in instructions
        ]

    def _lengths(self, turns: Sequence[tuple[str, list[int]]]) -> Lengths:
        """The lengths of a conversation; `turns`: the role and the tokens of each turn."""
        if self._form.is_chat:
            *before, (_, answer) = turns
            prompt = sum(len(ids) for _, ids in before) + self._extra(before)
            return Lengths(prompt, len(answer) + self._answer)
        learned = [pair for text in plain_segments(self._form, turns) for pair in text]
        if self._form.is_encoder_decoder:
            return Lengths(len(learned[-1][0]), max(len(answer) for _, answer in learned))
        whole = sum(len(prompt) + len(answer) for prompt, answer in learned)
        return Lengths(whole - len(learned[-1][1]), len(learned[-1][1]))

    def too_long(self, lengths: Lengths) -> str:
        """Why it does not fit; empty if it does."""
        if self._most.prompt and lengths.prompt > self._most.prompt:
            return "prompt too long"
        if self._most.answer and lengths.answer > self._most.answer:
            return "answer too long"
        if self._positions is None:
            return ""
        apart = self._form.is_encoder_decoder
        longest = max(lengths) if apart else sum(lengths)
        return "longer than the model" if longest > self._positions else ""

    def _extra(self, before: Sequence[tuple[str, list[int]]]) -> int:
        """Tokens of the chat template around the turns before the last answer."""
        first, pair, system = self._around
        systems = sum(role == "system" for role, _ in before)
        return first + pair * ((len(before) - systems - 1) // 2) + system * systems


def _positions(config: Any) -> int | None:
    found = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return None if found is None else int(found)


def _around(form: PromptForm) -> tuple[int, int, int]:
    """Tokens of a chat around one turn, around each earlier turn with its answer, and a system."""
    if not form.is_chat:
        return 0, 0, 0
    user = {"role": "user", "content": "a"}
    answer = {"role": "assistant", "content": "a"}
    one = _size(form, [user])
    first = one - 1
    pair = _size(form, [user, answer, user]) - one - 2
    system = _size(form, [{"role": "system", "content": "a"}, user]) - one - 1
    return max(first, 0), max(pair, 0), max(system, 0)


def _size(form: PromptForm, messages: Sequence[dict[str, str]]) -> int:
    """The tokens of a conversation; of `a` alone if the template takes no such conversation."""
    from regrow.common.errors import UserError

    try:
        text = render_chat(form.tokenizer, messages, add_generation_prompt=True)
    except UserError:  # such as a template without a system turn
        return len(messages)
    return len(form.tokenizer(text, add_special_tokens=False)["input_ids"])
