"""How a model writes a text: how the text begins, what ends a turn, and how it is put together.

A chat model writes a conversation of one question and one answer. It also writes the question: it
is given its chat template up to the place where the words of a user begin (Magpie, Xu et al. 2024,
section 2), and often the first words of the question. A model without a chat template writes a
document from its beginning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.encoding import Tokenizer
from regrow.corpus.packing import start_and_end
from regrow.tokenizers.chat_rendering import render_chat

_QUESTION, _ANSWER = "QUESTION-HERE", "ANSWER-HERE"
"""Words that are found again in the text that a chat template gives."""


@dataclass(frozen=True)
class TextForm:
    """How a model writes a text.

    Attributes:
        tokenizer: Of the model.
        ends: The ids that end a turn of a conversation, or a document.
        answer_start: The ids from the end of a question to the beginning of its answer. Empty for a
            model without a chat template.
    """

    tokenizer: Tokenizer
    ends: frozenset[int]
    answer_start: tuple[int, ...] = ()

    @property
    def is_chat(self) -> bool:
        return bool(self.answer_start)

    @cached_property
    def forbidden(self) -> list[int]:
        """Special tokens that are never written, such as those that begin a turn."""
        added = self.tokenizer.added_tokens_decoder
        special = {number for number, token in added.items() if token.special}
        return sorted((special | set(self.tokenizer.all_special_ids)) - self.ends)

    def start(self, prompt: str | None, opening: str = "") -> list[int]:
        """The ids before the first token that the model writes.

        `prompt`: the question, or the beginning of the document; None lets the model write it.
        `opening`: the given first words of a question that the model writes.
        """
        if not self.is_chat:
            return [start_and_end(self.tokenizer)[0], *self.ids(prompt or "")]
        if prompt is None:
            before = self.ids(self._before_question) or [start_and_end(self.tokenizer)[0]]
            return [*before, *self.opening(opening)]
        return self.ids(self._rendered(prompt))

    def opening(self, words: str) -> list[int]:
        """The ids of the first words of a question, as they follow the chat template."""
        if not words:
            return []
        before = self._before_question
        whole, alone = self.ids(before + words), self.ids(before)
        # A tokenizer may put a space before a text that begins with these words.
        return whole[len(alone) :] if whole[: len(alone)] == alone else self.ids(words)

    @cached_property
    def _before_question(self) -> str:
        """The text of the chat template in front of a question."""
        return _around(self._rendered(_QUESTION), _QUESTION)[0]

    def document(self, prompt: str, written: Sequence[int]) -> str:
        """The text of a document: the prompt, and what the model wrote after it."""
        return self._decoded([*self.ids(prompt), *written])

    def question(self, written: Sequence[int]) -> str:
        """The text of a question that the model wrote."""
        return self._decoded(written).strip()

    def words(self, prompt: str, written: Sequence[int]) -> str:
        """What the text says: a document, or question and answer without the chat template.

        `prompt`: the beginning of the document, or the question.
        """
        if not self.is_chat:
            return self.document(prompt, written)
        return f"{prompt}\n\n{self._decoded(written).strip()}"

    def conversation(self, question: str, written: Sequence[int], *, is_complete: bool) -> str:
        """The text of a question and its answer, as the chat template gives it.

        A beginning-of-sequence token is left out if the tokenizer itself puts one before each text.

        `is_complete`: whether the answer ends; otherwise the text breaks off where the answer does.
        """
        text = self._rendered(question, self._decoded(written).strip())
        if not is_complete:
            text = text.removesuffix(_around(self._rendered(_QUESTION, _ANSWER), _ANSWER)[1])
        return text.removeprefix(self.tokenizer.bos_token) if self._adds_bos else text

    def count(self, text: str) -> int:
        """The tokens of a text, as training counts them."""
        return len(self.ids(text))

    @cached_property
    def _adds_bos(self) -> bool:
        before = self.tokenizer("")["input_ids"]
        return bool(before) and before[0] == self.tokenizer.bos_token_id

    def ids(self, text: str) -> list[int]:
        """The tokens of a text, without special ones around it."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)[
            "input_ids"
        ]
        return found

    def _decoded(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def _rendered(self, question: str, answer: str | None = None) -> str:
        return _rendered(self.tokenizer, question, answer)


def text_form(model: ModelDirectory, *, writes_questions: bool) -> TextForm:
    """The form of a model's texts. Reads its config and its tokenizer.

    `writes_questions`: whether a chat model has to write questions too.

    Raises UserError if the model is an encoder-decoder, or its chat template or tokenizer does not
    say how a text begins and ends.
    """
    if model.config.is_encoder_decoder:
        raise UserError(
            f"{model.path}: an encoder-decoder, which continues no text by itself; give a decoder"
        )
    tokenizer = model.tokenizer
    _, end = start_and_end(tokenizer)
    given = (model.generation_config or {}).get("eos_token_id")
    ends = {end, *(given if isinstance(given, list) else [] if given is None else [given])}
    if not getattr(tokenizer, "chat_template", None):
        return TextForm(tokenizer, frozenset(ends))
    where = f"{model.path}: the chat template"
    try:
        asked = _around(_rendered(tokenizer, _QUESTION), _QUESTION)
        answered = _around(_rendered(tokenizer, _QUESTION, _ANSWER), _ANSWER)
    except ValueError as error:
        raise UserError(f"{where} takes no question and answer: {error}") from error
    switch, closing = (
        tokenizer(text[1], add_special_tokens=False)["input_ids"] for text in (asked, answered)
    )
    special = set(tokenizer.all_special_ids) | {
        number for number, token in tokenizer.added_tokens_decoder.items() if token.special
    }
    ends |= {ids[0] for ids in (switch, closing) if ids and ids[0] in special}
    if not switch:
        raise UserError(
            f"{where} has nothing between the words of a user and the answer, so where the answer "
            "begins is not known; give another model"
        )
    if writes_questions and switch[0] not in ends:
        raise UserError(
            f"{where} ends the words of a user with no special token, so the model cannot write "
            "questions; give `prompts`, a file of them"
        )
    return TextForm(tokenizer, frozenset(ends), tuple(switch))


def _rendered(tokenizer: Any, question: str, answer: str | None = None) -> str:
    """A conversation as text; without an answer, up to where the answer begins."""
    turns = [{"role": "user", "content": question}]
    if answer is not None:
        turns.append({"role": "assistant", "content": answer})
    return render_chat(tokenizer, turns, add_generation_prompt=answer is None)


def _around(text: str, words: str) -> tuple[str, str]:
    """The text before and after some words. Raises ValueError if it does not hold them."""
    before, found, after = text.rpartition(words)
    if not found:
        raise ValueError("it leaves the words out")
    return before, after
