import json
from pathlib import Path

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from regrow.common.errors import UserError
from regrow.tokenizers.chat_templates import _literals, has_template, template_ids
from regrow.tokenizers.tokenizer_files import vocabulary_candidates
from tests.tokenizers.bpe_cases import load, trained, zeros

WORDS = ["assistant", "user", "system", "tool", "reply", "thinking", "über"]
CONTENTS = trained(WORDS * 9, 400, ["<s>", "<im>"])
CHAT = """{%- generation %}{% for m in messages %}<im>{{ m['role'] + '\\n' }}{% break %}{% endfor %}
{%- if add_generation_prompt %}{{ '<im>\\u00fcber ' }}reply{% endif %}{%- endgeneration %}"""


def write(directory: Path, **files: str) -> Path:
    (directory / "tokenizer.json").write_text(json.dumps(CONTENTS))
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


def tokens(directory: Path) -> set[str]:
    tokenizer = load(CONTENTS)
    return {tokenizer.id_to_token(i) or "" for i in template_ids(directory, tokenizer)}


@pytest.mark.parametrize(
    "files",
    [
        {"tokenizer_config__json": json.dumps({"chat_template": CHAT})},
        {
            "tokenizer_config__json": json.dumps(
                {"chat_template": [{"name": "default", "template": CHAT}]}
            )
        },
        {"chat_template__jinja": CHAT},
        {"chat_template__json": json.dumps({"chat_template": CHAT})},
    ],
)
def test_the_text_of_a_template_and_the_roles_stay(tmp_path: Path, files: dict[str, str]) -> None:
    """With tags that only transformers knows, and escapes; "thinking" is not in it."""
    directory = write(tmp_path, **files)
    assert has_template(directory)
    found = tokens(directory)
    assert found >= {"<im>", "Ã¼ber", "reply", "assistant", "user", "Ċ"}
    assert "thinking" not in found

    candidates = vocabulary_candidates(directory, zeros(CONTENTS))
    reasons = {load(CONTENTS).id_to_token(i): reason for i, reason in candidates.required.items()}
    assert reasons["assistant"] == "template"
    assert reasons["<im>"] == "special"
    assert "merge ancestor" in reasons.values()
    assert "thinking" not in reasons


def test_what_is_no_template_is_named(tmp_path: Path) -> None:
    directory = write(tmp_path, chat_template__jinja="x" * (1 << 20) + "x")
    with pytest.raises(UserError, match=r"chat_template\.jinja: larger than 1 MB"):
        tokens(directory)
    (directory / "chat_template.jinja").write_bytes(b"\xff\xfe{{ x }}")
    with pytest.raises(UserError, match=r"chat_template\.jinja: not UTF-8"):
        tokens(directory)


def test_half_a_surrogate_pair_in_a_string_is_read_as_it_is_written(tmp_path: Path) -> None:
    assert "reply" in tokens(write(tmp_path, chat_template__jinja=r"reply{{ '\ud800' }}"))


def test_without_a_template_nothing_more_stays(tmp_path: Path) -> None:
    directory = write(tmp_path, tokenizer_config__json='{"chat_template": null}')
    assert not has_template(directory)
    assert "template" not in vocabulary_candidates(directory, zeros(CONTENTS)).required.values()


def test_what_is_no_template_is_refused(tmp_path: Path) -> None:
    directory = write(tmp_path, chat_template__jinja="{% if 'a %}")
    with pytest.raises(UserError, match=r"chat_template\.jinja: not a template") as error:
        vocabulary_candidates(directory, zeros(CONTENTS))
    assert "\n" not in str(error.value)


def test_a_backslash_that_escapes_nothing_is_text(tmp_path: Path) -> None:
    assert "reply" in tokens(write(tmp_path, chat_template__jinja="{{ 'reply\\x' }}reply"))


def test_text_is_that_which_transformers_renders() -> None:
    """Without the line end behind a tag, and the spaces before one."""
    template = "a\n{% if messages %}\n\n\n### b\n  {% endif %}\nc"
    texts, _ = render_jinja_template([[{"role": "user", "content": "x"}]], chat_template=template)
    assert "".join(_literals(template, "template")) == texts[0] == "a\n\n\n### b\nc"
