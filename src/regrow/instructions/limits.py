"""How long an instruction is for a model, and whether it fits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.encoding import encode
from regrow.instructions.sample import Instruction
from regrow.instructions.template import as_one_text
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

    An encoder-decoder reads a conversation as one text up to its last answer. What a chat template
    puts around a turn is measured once, and counted for each.
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
        texts: list[str] = []
        for each in instructions:
            texts += [*self._prompt_texts(each), each.messages[-1].content]
        sizes = iter(map(len, encode(texts, self._form.tokenizer)))
        found = []
        for each in instructions:
            turns = len(self._prompt_texts(each))
            prompt = sum(next(sizes) for _ in range(turns))
            found.append(Lengths(prompt + self._extra(each), next(sizes) + self._answer))
        return found

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

    def _prompt_texts(self, instruction: Instruction) -> list[str]:
        before = instruction.messages[:-1]
        if self._form.is_chat:
            return [message.content for message in before]
        return [as_one_text(before, instruction.language)]

    def _extra(self, instruction: Instruction) -> int:
        """Tokens around the texts of a prompt."""
        if not self._form.is_chat:
            return len(self._form.before) + len(self._form.after)
        first, pair, system = self._around
        before = instruction.messages[:-1]
        systems = sum(message.role == "system" for message in before)
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
