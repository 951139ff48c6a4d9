"""Chat templates: the text that transformers gives, or one line, within bounds."""

import copy
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.tokenizers import chat_rendering
from regrow.tokenizers.chat_rendering import render_chat
from tests.training.small import byte_tokenizer

TURNS = [
    {"role": "user", "content": "Why? \u2028 <b> 日本 🦜"},
    {"role": "assistant", "content": "Because."},
]
CHAT = (
    "{{ bos_token }}{%- for m in messages %}\n  {% generation %}{{ m['role'] }}: {{ m | tojson }}"
    "{{ eos_token }}{% endgeneration %}{% if loop.last %}{% break %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\\u00fcber' }}assistant:{% endif %}"
)


def with_template(template: Any) -> Any:
    tokenizer = copy.deepcopy(byte_tokenizer(bos=True))
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("add", [True, False])
@pytest.mark.parametrize("template", [CHAT, {"default": CHAT, "other": "x"}])
def test_the_text_is_that_of_transformers(template: Any, add: bool) -> None:
    tokenizer = with_template(template)
    expected = tokenizer.apply_chat_template(TURNS, tokenize=False, add_generation_prompt=add)
    assert render_chat(tokenizer, TURNS, add_generation_prompt=add) == expected


def test_the_date_of_today_is_always_the_same() -> None:
    """With that of transformers, a run that goes on after midnight would read other tokens."""
    tokenizer = with_template("{% set now = strftime_now('%d %b %Y, %H:%M') %}{{ now }}")
    assert tokenizer.apply_chat_template(TURNS, tokenize=False) != "01 Jan 2025, 00:00"
    assert render_chat(tokenizer, TURNS, add_generation_prompt=False) == "01 Jan 2025, 00:00"


def test_limits_that_the_process_was_started_with_stay() -> None:
    """As on the login nodes of a cluster."""
    code = (
        "import resource\n"
        "from tests.tokenizers.test_chat_rendering import CHAT, TURNS, with_template\n"
        "from regrow.tokenizers.chat_rendering import render_chat\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (3600, 3600))\n"
        "print(render_chat(with_template(CHAT), TURNS, add_generation_prompt=True)[-10:])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "assistant:"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for %}", "TemplateSyntaxError: "),
        ("{{ raise_exception('no\\nsystem role') }}", "TemplateError: no system role$"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{{ messages[0].content.__class__.__mro__ }}", "SecurityError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
        ("{{ '\\ud800' }}", "UnicodeEncodeError"),
        ("{{ 'x' * 1000000000 }}", "more than 512 MB"),
        ("{{ '%1000000000d' % 1 }}", "more than 512 MB"),
        ("{{ 'x' * 20000000 }}", "more than 16 MB of text"),
        ("x" * (1 << 20) + "x", "larger than 1 MB"),
        ({"a": "x", "b": "y"}, "cannot be chosen"),
    ],
)
def test_what_fails_is_one_short_line(template: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        render_chat(with_template(template), TURNS, add_generation_prompt=False)
    assert "the chat template" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


LOOPS = (
    "{% for a in range(90000) %}{% for b in range(90000) %}{% set c = 1 %}{% endfor %}{% endfor %}"
)


def test_endless_loops_end_and_the_next_rendering_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rendering, "_MOST_WAIT", 0.5)
    with pytest.raises(UserError, match="it takes more than 4 seconds"):
        render_chat(with_template(LOOPS), TURNS, add_generation_prompt=False)
    monkeypatch.undo()
    assert render_chat(with_template("ab"), TURNS, add_generation_prompt=False) == "ab"


def test_an_answer_that_nobody_waits_for_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(chat_rendering, "_read_line", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render_chat(with_template("first"), TURNS, add_generation_prompt=False)
    assert render_chat(with_template("second"), TURNS, add_generation_prompt=False) == "second"


def test_a_process_that_died_is_started_again() -> None:
    tokenizer = with_template("ab")
    render_chat(tokenizer, TURNS, add_generation_prompt=False)
    process = chat_rendering._renderer._process
    assert process is not None
    os.kill(process.pid, signal.SIGKILL)
    while process.poll() is None:
        time.sleep(0.01)
    assert render_chat(tokenizer, TURNS, add_generation_prompt=False) == "ab"
