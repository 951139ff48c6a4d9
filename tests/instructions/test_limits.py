"""The lengths of instructions are those that training learns them in."""

from pathlib import Path

import pytest

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.corpus.conversations import Turn, as_document
from regrow.instructions.limits import ModelRoom
from regrow.instructions.sample import Instruction, Message, Sample
from regrow.objectives.conversations import prepare_conversations
from regrow.objectives.rows.answered_texts import AnsweredTexts
from regrow.objectives.rows.prompt_answers import PromptAnswers
from tests.tiny import write_model, write_seq2seq

TALKS = (
    (("user", "river"), ("assistant", "stone")),
    (("system", "light"), ("user", "river"), ("assistant", "a long answer"), ("user", "wind"),
     ("assistant", "x")),
)  # fmt: skip


@pytest.mark.parametrize("talk", TALKS)
@pytest.mark.parametrize("is_encoder_decoder", [False, True])
def test_lengths(
    tmp_path: Path, talk: tuple[tuple[str, str], ...], is_encoder_decoder: bool
) -> None:
    path = tmp_path / "model"
    model = ModelDirectory(write_seq2seq(path, OPENBA) if is_encoder_decoder else write_model(path))
    sample = Sample("i", "s", "dialogue", "en", {})
    messages = tuple(Message(*turn) for turn in talk)
    room = ModelRoom(model, None, None)
    (found,) = room.measure([Instruction(sample, messages, "dialogue", "en")])

    document = as_document(Turn(*turn) for turn in talk)
    learned = prepare_conversations([document], model.tokenizer, model.config, 256).answers
    if isinstance(learned, PromptAnswers):
        numbers = range(len(learned))
        assert found.prompt == max(len(learned.prompt(n)) for n in numbers)
        assert found.answer == max(len(learned.answer(n)) for n in numbers)
    else:
        assert isinstance(learned, AnsweredTexts)
        tokens, _ = learned.text(0)
        assert sum(found) == len(tokens)
