"""The tokens around prompts and answers, for each kind of model."""

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from regrow.architectures.bart import BART
from regrow.architectures.openba import OPENBA
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.objectives.prompt_form import PromptForm, prompt_form
from tests.tiny import add_chat_template, write_model, write_seq2seq


def _form(path: Path) -> PromptForm:
    model = ModelDirectory(path)
    return prompt_form(model.tokenizer, model.config)


def _put_around_texts(path: Path, template: str) -> None:
    """Let the tokenizer put special tokens around each text."""
    file = path / "tokenizer.json"
    contents = json.loads(file.read_text(encoding="utf-8"))
    ids = {"<bos>": 1, "<eos>": 2}
    single: list[dict[str, Any]] = [
        {"Sequence": {"id": "A", "type_id": 0}} if part == "$A"
        else {"SpecialToken": {"id": part, "type_id": 0}}
        for part in template.split()
    ]  # fmt: skip
    contents["post_processor"] = {
        "type": "TemplateProcessing", "single": single,
        "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            name: {"id": name, "ids": [number], "tokens": [name]} for name, number in ids.items()
        },
    }  # fmt: skip
    file.write_text(json.dumps(contents), encoding="utf-8")


def _decoded(form: PromptForm, ids: Any) -> str:
    text: str = form.tokenizer.decode(ids, skip_special_tokens=False)
    return text


def test_openba_reads_a_mode_token_and_a_sentinel(tmp_path: Path) -> None:
    path = write_seq2seq(tmp_path / "model", OPENBA)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": ["<S>"]}, replace_extra_special_tokens=False
    )
    tokenizer.save_pretrained(path)
    form = _form(path)
    assert _decoded(form, form.source("a river")) == "<S>a river<extra_id_0><eos>"
    assert _decoded(form, form.target([5, 6])) == f"<extra_id_0>{_decoded(form, [5, 6])}<eos>"
    assert form.decoder_start == 0


def test_t5_reads_the_prompt_alone(tmp_path: Path) -> None:
    path = write_seq2seq(tmp_path / "model", T5)
    form = _form(path)
    assert _decoded(form, form.source("a river")) == "a river"
    assert form.target([5]) == [5, 2]
    _put_around_texts(path, "$A <eos>")
    form = _form(path)
    assert _decoded(form, form.source("a river")) == "a river<eos>"
    assert form.target([5]) == [5, 2]


def test_bart_puts_tokens_around_prompt_and_answer(tmp_path: Path) -> None:
    path = write_seq2seq(tmp_path / "model", BART)
    _put_around_texts(path, "<bos> $A <eos>")
    form = _form(path)
    assert _decoded(form, form.source("a river")) == "<bos>a river<eos>"
    assert form.target([5]) == [1, 5, 2]


def test_t5gemma_begins_a_prompt_alone_with_bos(tmp_path: Path) -> None:
    path = write_seq2seq(tmp_path / "model", T5)
    _put_around_texts(path, "<bos> $A")
    form = _form(path)
    assert _decoded(form, form.source("a river")) == "<bos>a river"
    assert form.target([5]) == [5, 2]


def test_a_decoder_reads_a_line(tmp_path: Path) -> None:
    form = _form(write_model(tmp_path / "model"))
    assert _decoded(form, form.source("a river")) == "<eos>a river\n"
    assert form.target([5]) == [5, 2]
    assert not form.is_encoder_decoder
    assert form.decoder_start is None


def test_a_chat_model_reads_a_turn(tmp_path: Path) -> None:
    form = _form(add_chat_template(write_model(tmp_path / "model")))
    assert _decoded(form, form.source("a river")) == "<bos>user:a river<eos><bos>assistant:"
    assert form.target([5]) == [5, 2]


def test_names_of_special_tokens_in_a_prompt_are_text(tmp_path: Path) -> None:
    form = _form(write_model(tmp_path / "model"))
    assert 2 not in form.source("a <eos> b")[1:]


def test_a_template_that_leaves_words_out_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model")
    (path / "chat_template.jinja").write_text("nothing", encoding="utf-8")
    with pytest.raises(UserError, match="the chat template leaves out the words"):
        _form(path)
