"""How many tokens a prompt and its answer may have together."""

from dataclasses import dataclass
from typing import Any

from regrow.ner.prompts import Question
from regrow.ner.spelling import Spelling
from regrow.objectives.prompt_form import PromptForm

ROW_LENGTH = 1_024
"""The most tokens of a prompt with its answer by default, if the model has as many positions."""


@dataclass(frozen=True)
class Room:
    """How many tokens a prompt and its answer may have together.

    Attributes:
        usual: With an answer of usual length.
        most: With the longest answer that has the right form: the positions of the model. None for
            any number.
    """

    usual: int
    most: int | None

    def holds(self, form: PromptForm, spelling: Spelling, question: Question) -> bool:
        """Whether a question and its answer fit."""
        prompt = len(form.source(question.prompt)) + len(form.answer_start) + len(form.answer_end)
        usual, most = spelling.answer_sizes(question)
        return prompt + usual <= self.usual and (self.most is None or prompt + most <= self.most)


def room_of(config: Any, row_length: int) -> Room:
    """The room in rows of this length for a model with this config."""
    positions = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    return Room(row_length, None if positions is None else int(positions))
