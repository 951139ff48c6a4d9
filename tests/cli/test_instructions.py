"""`regrow instructions` as a user types it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import regrow as package
from regrow.cli import app
from tests.tiny import add_chat_template, add_tokenizer, write_model

CONFIG = """name: small
model: model
prompt_tokens: 60
sources:
  - {path: chats.jsonl}
"""
TEMPLATE = """language: en
tasks:
  cloze:
    - {name: one, fields: [text, answer], prompt: "Fill: {{ text }}"}
"""


def regrow(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app.app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result.output if code else result.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "model", num_hidden_layers=1)
    add_chat_template(add_tokenizer(home / "model"))
    rows = [{"prompt": f"{n} river", "completion": "stone"} for n in range(30)]
    rows.append({"prompt": "river " * 60, "completion": "stone"})
    (home / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "config.yaml").write_text(CONFIG)
    (home / "mine.yaml").write_text(TEMPLATE)
    return home


def test_build(home: Path, tmp_path: Path) -> None:
    told = regrow("instructions", "build", home / "config.yaml", tmp_path / "out", "--no-sync")
    rows = [line.split() for line in told.splitlines()]
    assert rows[2][:4] == ["chats", "31", "0", "1"]
    assert ["instruction", "following", "30", "100.0%"] in rows
    assert told.endswith(f"written {tmp_path / 'out'}\n")

    found = json.loads(
        regrow("instructions", "build", home / "config.yaml", tmp_path / "b", "--json")
    )
    assert found["sources"][0]["dropped"] == {"prompt too long": 1}
    assert found["unit"] == "tokens"
    assert found["passes"] == 2


def test_tokens_are_those_of_the_chat_template(home: Path, tmp_path: Path) -> None:
    from regrow.checkpoint.model_directory import ModelDirectory
    from regrow.instructions.limits import ModelRoom
    from regrow.instructions.sample import Instruction, Message, Sample
    from regrow.objectives.prompt_form import prompt_form

    model = ModelDirectory(home / "model")
    room = ModelRoom(model, None, None)
    turns = [("system", "light"), ("user", "river"), ("assistant", "stone"), ("user", "wind")]
    sample = Sample("i", "s", "dialogue", "en", {})

    def prompt(count: int, first: int) -> int:
        messages = tuple(Message(*turn) for turn in [*turns[first:count], ("assistant", "x")])
        return room.measure([Instruction(sample, messages, "dialogue", "en")])[0].prompt

    def rendered(count: int, first: int) -> int:
        chat = [{"role": role, "content": text} for role, text in turns[first:count]]
        return len(
            model.tokenizer.apply_chat_template(chat, add_generation_prompt=True)["input_ids"]
        )

    assert (
        prompt(2, 1)
        == rendered(2, 1)
        == len(prompt_form(model.tokenizer, model.config).source("river"))
    )
    assert prompt(4, 1) == rendered(4, 1)
    assert prompt(4, 0) == rendered(4, 0)


def test_lint(home: Path, tmp_path: Path) -> None:
    assert regrow("instructions", "lint", home / "mine.yaml") == "1 templates, 0 with a mistake\n"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TEMPLATE.replace("Fill:", "Fill {{ answer }}:"))
    told = regrow("instructions", "lint", wrong, code=1)
    assert told.startswith(f"{wrong}:4: en/cloze/one: the prompt uses answer, which is a part of")
    found = json.loads(regrow("instructions", "lint", home / "mine.yaml", "--json"))
    assert found == {"templates": 1, "findings": []}


def test_mistakes_are_one_line(home: Path, tmp_path: Path) -> None:
    told = regrow("instructions", "build", tmp_path / "no.yaml", tmp_path / "out", code=2)
    assert told == f"regrow: {tmp_path / 'no.yaml'}: no such file\n"


def test_from_python(home: Path, tmp_path: Path) -> None:
    built = package.build_instructions(home / "config.yaml", tmp_path / "out")
    assert built.report.train + built.report.heldout == 30
    assert package.lint_templates(home / "mine.yaml").findings == ()
