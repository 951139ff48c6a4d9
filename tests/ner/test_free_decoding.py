"""Answers written in a batch are those of each prompt alone."""

from pathlib import Path

import pytest
import torch

from regrow.architectures.openba import OPENBA
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.ner.free_decoding import write_answers
from regrow.objectives.prompt_form import prompt_form
from tests.tiny import write_model, write_seq2seq

PROMPTS = ["a river", "the stone in the garden of the house", "x"]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_a_batch_gives_the_answers_of_each_prompt_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "model"
    write_model(path) if kind == "decoder" else write_seq2seq(path, OPENBA)
    source = ModelDirectory(path)
    form, model = prompt_form(source.tokenizer, source.config), source.load()
    with torch.no_grad():
        for parameter in model.parameters():  # else all prompts get the same answer
            if parameter.ndim > 1:
                parameter *= 3
    sources = [form.source(prompt) for prompt in PROMPTS]
    alone = [write_answers(model, form, [each], 12)[0] for each in sources]
    assert write_answers(model, form, sources, 12) == alone
    assert len(set(alone)) > 1


def test_an_answer_ends_where_a_turn_ends(tmp_path: Path) -> None:
    source = ModelDirectory(write_model(tmp_path / "model"))
    form, model = prompt_form(source.tokenizer, source.config), source.load()
    sources = [form.source(PROMPTS[0])]
    (whole,) = write_answers(model, form, sources, 12)
    first = source.tokenizer(whole, add_special_tokens=False)["input_ids"][0]
    ended = form.__class__(**{**vars(form), "answer_end": (int(first),)})
    (answer,) = write_answers(model, ended, sources, 12)
    assert whole.startswith(answer)
    assert len(answer) < len(whole)
