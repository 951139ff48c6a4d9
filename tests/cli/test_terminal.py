"""What reaches the terminal: no escape sequences of files, in any encoding; and the exit code."""

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner

from regrow import api
from regrow.cli import app, output
from regrow.cli.output import OUT, new_table, program_name
from regrow.common.errors import UserError
from tests.tiny import write_model

ESCAPE = "\x1b[31m\u202e[bold]"
SHOWN = r"\x1b[31m\u202e[bold]"


def test_no_table_and_no_line_holds_an_escape_sequence() -> None:
    table = Table("a")
    table.add_row(f"cell {ESCAPE}")
    with OUT.capture() as capture:
        OUT.print(table)
        OUT.print(f"line {ESCAPE}")
        OUT.print(Text(f"text {ESCAPE}"))
    printed = capture.get()
    for place in ("cell", "line", "text"):
        assert f"{place} {SHOWN}" in printed
    assert "\x1b" not in printed


def test_an_error_about_a_file_holds_none(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": ESCAPE}))
    result = CliRunner().invoke(app.app, ["inspect", str(model)])
    assert result.exit_code == 2
    assert "[31m" in result.output
    assert "\x1b" not in result.output
    assert "\u202e" not in result.output


def test_what_a_model_writes_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "generate", lambda *_, **__: f"one {ESCAPE}\ntwo")
    result = CliRunner().invoke(app.app, ["generate", "m", "a"])
    assert result.output == f"one {SHOWN}\ntwo\n"


def test_an_encoding_without_a_character_does_not_end_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As LC_ALL=C with PYTHONUTF8=0 has it."""
    for name in app._QUIET_LIBRARIES:  # main sets them for the whole process
        monkeypatch.setenv(name, "")
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    monkeypatch.setattr(api, "generate", lambda *_, **__: "a \u2192 b")
    monkeypatch.setattr(sys, "argv", ["regrow", "generate", "m", "a"])
    with pytest.raises(SystemExit) as ended:
        app.main()
    sys.stdout.flush()
    assert (ended.value.code or 0, raw.getvalue()) == (0, rb"a \u2192 b" + b"\n")


def test_an_argument_that_the_locale_cannot_read_is_refused() -> None:
    result = CliRunner().invoke(app.app, ["inspect", "m\udcc3\udca4"])
    assert result.exit_code == 2
    assert "set LC_ALL=C.UTF-8" in result.output


@pytest.mark.parametrize(
    "error", [UserError("not readable"), RuntimeError("a bug"), OSError("disk")]
)
def test_an_interrupt_that_a_library_turns_into_an_error_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def work(*_: Any, **__: Any) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(api, "inspect", work)
    result = CliRunner().invoke(app.app, ["inspect", "m"])
    assert (result.exit_code, result.output) == (130, "regrow: stopped\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("called", "found", "named"),
    [
        (".venv/bin/regrow", None, ".venv/bin/regrow"),
        (".venv/bin/regrow", "/usr/bin/regrow", "regrow"),
        ("/home/me/regrow/__main__.py", None, "regrow"),
    ],
)
def test_regrow_is_named_as_the_shell_can_call_it(
    monkeypatch: pytest.MonkeyPatch, called: str, found: str | None, named: str
) -> None:
    monkeypatch.setattr("sys.argv", [called, "run"])
    monkeypatch.setattr("shutil.which", lambda _: found)
    assert program_name() == named


def test_a_long_name_leaves_room_for_the_numbers() -> None:
    """In 80 columns, also where the name has no place to break."""
    names = ("sentences", "F1", "precision", "recall", "report F1", "unaligned", "s/sentence")
    table = new_table(("set", "left"), *((name, "right") for name in names))
    numbers = ["1,234", "50.00", "51.00", "52.00", "53.00", "54", "0.123"]
    table.add_row("a-name-that-goes-on" * 4, *numbers)
    said = io.StringIO()
    Console(file=said, width=80).print(table)
    assert all(number in said.getvalue().split() for number in numbers)


@pytest.mark.parametrize("is_terminal", [True, False])
def test_lines_break_between_words_and_never_in_a_path(is_terminal: bool) -> None:
    written = io.StringIO()
    console = output._SafeConsole(file=written, force_terminal=is_terminal, width=40, no_color=True)
    path = "/a/directory/whose-name/is-longer/than-one/line.jsonl"
    text = f"{path}: has no documents that are long enough; give another [one]"
    console.say(text)
    lines = written.getvalue().splitlines()
    assert " ".join(lines) == text
    assert (lines[0] == f"{path}:") == is_terminal
    assert all(len(line) <= 40 for line in lines[1:])
    assert len(lines) == (3 if is_terminal else 1)
