"""Conversations as tokens, for models without a chat template."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.corpus.conversations import as_document, conversation_of
from regrow.objectives.conversations import left_out_words, prepare_conversations
from regrow.objectives.rows.answered_texts import AnsweredTexts
from regrow.objectives.rows.prompt_answers import PromptAnswers
from tests.tiny import add_chat_template, write_model, write_seq2seq

TALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "two <eos>"},
    ]
}
SHORT = {"prompt": "Hi", "completion": "ho"}


def documents(*records: dict[str, Any]) -> list[str]:
    return [as_document(conversation_of(record)) for record in records]


def test_a_decoder_without_a_template_reads_lines(tmp_path: Path) -> None:
    model = ModelDirectory(write_model(tmp_path / "model"))
    found = prepare_conversations(documents(TALK, SHORT), model.tokenizer, model.config, 64)
    assert isinstance(found.answers, AnsweredTexts)
    tokens, is_answer = found.answers.text(0)
    decode = model.tokenizer.decode
    # The last <eos> is the token, and the one before it is in the words.
    assert decode(tokens) == "<eos>Be brief.\nOne?\n1<eos>Two?\ntwo <eos><eos>"
    assert decode(tokens[is_answer]) == "1<eos>two <eos><eos>"
    assert tokens.tolist().count(2) == 3
    assert decode(found.answers.text(1)[0]) == "<eos>Hi\nho<eos>"
    assert (found.conversations, found.left_out) == (2, {})
    assert found.answer_tokens == is_answer.sum() + len("ho") + 1


def test_an_encoder_decoder_learns_each_answer_after_all_turns_before(tmp_path: Path) -> None:
    path = write_seq2seq(tmp_path / "model", OPENBA)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<S>"]}, replace_extra_special_tokens=False
    )
    config = ModelDirectory(path).config
    found = prepare_conversations(documents(TALK, SHORT), tokenizer, config, 64, keep_words=True)
    assert isinstance(found.answers, PromptAnswers)
    pairs = [
        (tokenizer.decode(found.answers.prompt(n)), tokenizer.decode(found.answers.answer(n)))
        for n in range(len(found.answers))
    ]
    assert pairs == [
        ("<S>Be brief.<eos>One?<extra_id_0><eos>", "<extra_id_0>1<eos>"),
        (
            "<S>Be brief.<eos>One?<eos>1<eos>Two?<extra_id_0><eos>",
            "<extra_id_0>two <eos><eos>",
        ),
        ("<S>Hi<extra_id_0><eos>", "<extra_id_0>ho<eos>"),
    ]
    assert found.words == ("1", "two <eos>", "ho")
    assert found.tokens == found.answers.lengths(slice(None)).sum()  # type: ignore[arg-type]
    # The second pair is longer than a row, so it is left out alone.
    found = prepare_conversations(documents(TALK, SHORT), tokenizer, config, 28, keep_words=True)
    assert found.words == ("1", "ho")
    assert left_out_words(found.left_out) == "1 are longer than row_length (28)"


def test_what_a_template_cannot_render_is_left_out_and_counted(tmp_path: Path) -> None:
    path = add_chat_template(write_model(tmp_path / "model"))
    file = path / "chat_template.jinja"
    refuse = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    file.write_text(refuse + file.read_text(), encoding="utf-8")
    model = ModelDirectory(path)
    plain = {**TALK, "messages": [*TALK["messages"][:4], {"role": "assistant", "content": "2"}]}
    found = prepare_conversations(documents(plain, SHORT), model.tokenizer, model.config, 64)
    ((reason, count),) = found.left_out.items()
    assert count == 1
    assert reason.startswith("cannot be learned: ")
    assert reason.endswith("no system")
    with pytest.raises(UserError, match="no conversation is left to learn of 1: 1 cannot be"):
        prepare_conversations(documents(plain), model.tokenizer, model.config, 64)
    with pytest.raises(UserError, match="1 have the name of a special token in their words"):
        prepare_conversations(documents(TALK), model.tokenizer, model.config, 64)
