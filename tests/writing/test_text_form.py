import copy
from pathlib import Path
from typing import Any

import pytest

from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.writing.text_form import TextForm, text_form
from tests.tiny import write_model, write_seq2seq
from tests.training.small import BOS, EOS, byte_tokenizer

CHAT = (
    "{% for m in messages %}<bos>{{ m['role'] }}:{{ m['content'] }}<eos>|{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)


class Model:
    """As much of a model directory as a form reads."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer, self.path = tokenizer, Path("model")
        self.generation_config: dict[str, Any] | None = {"eos_token_id": [7]}
        self.config = type("Config", (), {"is_encoder_decoder": False})


def form_of(template: str | None, *, bos: bool = False, writes_questions: bool = True) -> TextForm:
    tokenizer = copy.deepcopy(byte_tokenizer(bos=bos))
    tokenizer.chat_template = template
    model: Any = Model(tokenizer)
    return text_form(model, writes_questions=writes_questions)


def ids(text: str) -> list[int]:
    found: list[int] = byte_tokenizer()(text)["input_ids"]
    return found


def test_a_chat_model_begins_where_the_words_of_a_user_begin() -> None:
    form = form_of(CHAT)
    assert form.start(None) == [BOS, *ids("user:")]
    assert form.start("Hi?") == [BOS, *ids("user:Hi?"), EOS, *ids("|"), BOS, *ids("assistant:")]
    assert list(form.answer_start) == [EOS, *ids("|"), BOS, *ids("assistant:")]
    assert form.ends == {EOS, 7}
    assert form.forbidden == [BOS]
    assert form.question(ids(" Hi? ")) == "Hi?"


def test_a_conversation_is_as_the_template_gives_it() -> None:
    form = form_of(CHAT)
    whole = "<bos>user:Hi?<eos>|<bos>assistant:Yes.<eos>|"
    assert form.conversation("Hi?", ids("Yes."), is_complete=True) == whole
    cut = whole.removesuffix("<eos>|")
    assert form.conversation("Hi?", ids("Yes."), is_complete=False) == cut
    # Special tokens in the text become single ids again when it is tokenised.
    assert (
        form.count(whole) == len(ids(whole)) == whole.count("<") + len("user:Hi?|assistant:Yes.|")
    )


def test_the_words_of_a_text_have_nothing_of_the_template() -> None:
    assert form_of(CHAT).words("Hi?", [*ids(" Yes. "), EOS]) == "Hi?\n\nYes."
    assert form_of(None).words("Once", ids(" upon")) == "Once upon"


def test_a_tokenizer_that_begins_texts_itself_gets_no_second_beginning() -> None:
    form = form_of(CHAT, bos=True)
    assert form.conversation("Hi?", ids("Yes."), is_complete=True).startswith("user:Hi?")
    assert form.start(None)[0] == BOS


def test_a_model_without_a_template_writes_a_document() -> None:
    form = form_of(None)
    assert not form.is_chat
    assert form.start(None) == [EOS]
    assert form.start("Once") == [EOS, *ids("Once")]
    assert form_of(None, bos=True).start("Once") == [BOS, *ids("Once")]
    assert form.document("Once", ids(" upon")) == "Once upon"


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    plain = CHAT.replace("<eos>|", "#")
    with pytest.raises(UserError, match="no special token, so the model cannot write questions"):
        form_of(plain)
    assert form_of(plain, writes_questions=False).is_chat
    for writes_questions in (True, False):
        with pytest.raises(UserError, match="nothing between the words of a user and the answer"):
            form_of("{% for m in messages %}{{ m['content'] }}{% endfor %}",
                    writes_questions=writes_questions)  # fmt: skip
    with pytest.raises(
        UserError, match="chat template cannot be rendered: TemplateError: no users"
    ):
        form_of("{{ raise_exception('no users') }}")
    with pytest.raises(UserError, match="an encoder-decoder"):
        text_form(ModelDirectory(write_seq2seq(tmp_path / "t5", T5)), writes_questions=False)


def test_a_directory_gives_its_form(tmp_path: Path) -> None:
    form = text_form(ModelDirectory(write_model(tmp_path / "m")), writes_questions=True)
    assert form.ends == {2}
    assert form.forbidden == [0, 1]
