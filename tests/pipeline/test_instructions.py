"""Stages that learn the answers of conversations, beside stages that learn text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from regrow import UserError, api
from regrow.architectures.openba import OPENBA
from regrow.checkpoint.history import read_history
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.cli import app
from regrow.common.progress import QUIET, Progress
from regrow.corpus.text import read_documents
from regrow.models.loading import load_model
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.preview import preview_recipe
from regrow.pipeline.recipe_file import load_recipe
from regrow.pipeline.run import run
from regrow.pipeline.run_plan import RunOptions, plan_run
from regrow.pipeline.train_model import train_model, training_recipe
from tests.tiny import add_chat_template, sentences, write_model, write_seq2seq, write_text

torch.set_num_threads(1)
SETTINGS: dict[str, Any] = {
    "objective": "instructions", "tokens": 2_000, "row_length": 96, "batch_tokens": 192,
    "learning_rate": 0.02, "precision": "fp32", "track": [],
}  # fmt: skip


def conversations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Questions that name two words, of which the answer is the second."""
    found = []
    for text in sentences(count, seed):
        first, second, third = text.split()[1:4]
        turns = [("user", f"{first} {second}?"), ("assistant", second)]
        turns += [("user", f"{second} {third}?"), ("assistant", third)]
        found.append({"messages": [{"role": r, "content": c} for r, c in turns]})
    return found


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in records), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    add_chat_template(write_model(home / "chat"))
    write_seq2seq(home / "openba", OPENBA)
    write_text(home / "text.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(6, seed=5))
    write_lines(home / "chat.jsonl", conversations(60))
    write_lines(home / "chat-heldout.jsonl", conversations(8, seed=7))
    return home


def write_recipe(home: Path, out: Path, model: str, data: str, **settings: Any) -> Path:
    recover = json.dumps(SETTINGS | settings)
    out.write_text(
        f"""
name: instructed
model: {home / model}
data:
  train: {home / "text.jsonl"}
  heldout: {{text: {home / "heldout.jsonl"}}}
stages:
  - name: depth
    cut: {{layers: {{encoder: 1, decoder: 1}}}}
    recover: {{tokens: 400, row_length: 32, batch_tokens: 128, precision: fp32, track: []}}
  - name: instructions
    data: {data}
    recover: {recover}
""".replace("{encoder: 1, decoder: 1}", "3" if model == "chat" else "{encoder: 1, decoder: 1}"),
        encoding="utf-8",
    )
    return out


@pytest.mark.parametrize("model", ["chat", "openba"])
def test_a_stage_learns_answers_of_its_own_conversations(
    home: Path, tmp_path: Path, model: str
) -> None:
    data = f"{{train: {home / 'chat.jsonl'}, heldout: {{chat: {home / 'chat-heldout.jsonl'}}}}}"
    path = write_recipe(home, tmp_path / "recipe.yaml", model, data, evaluate_every=1_000)
    said: list[str] = []
    api.run(path, tmp_path / "run", progress=Progress(say=said.append))
    entries = read_entries(tmp_path / "run/ledger.jsonl")
    before = entries["depth/measure"].outputs["heldout"]
    after = entries["instructions/measure"].outputs["heldout"]
    assert set(before) == set(after) == {"text", "chat"}
    assert after["chat"]["predicts"] == "answers"
    assert after["chat"]["bits_per_byte"] < before["chat"]["bits_per_byte"] - 0.5
    made = entries["instructions/recover"]
    assert made.outputs["kept"] == "trained"
    assert made.outputs["others"] == ["text"]
    assert [set(losses) for _, losses in made.outputs["heldout_curve"]] == [{"chat"}] * 2
    # The text of the recipe decides the recovery on text, and conversations only this stage.
    assert entries["depth/recover"].outputs["others"] == ["chat"]
    texts = {text["name"]: text for text in entries["texts"].outputs["texts"]}
    assert texts["instructions"]["documents"] == 60
    assert texts["chat"]["documents"] == 8
    step = read_history(tmp_path / "run/model/regrow_history.json").steps[-1]
    assert "objective instructions; text: chat" in step.words
    assert "Losses" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
    assert not any("left out" in line for line in said)
    said.clear()
    api.run(path, tmp_path / "run", progress=Progress(say=said.append))
    assert len(said) == 1
    assert said[0].startswith("finished already")


def test_a_part_of_the_conversations_is_put_aside(home: Path, tmp_path: Path) -> None:
    path = write_recipe(
        home, tmp_path / "recipe.yaml", "chat", f"{{train: {home / 'chat.jsonl'}}}", tokens=400
    )
    loaded = load_recipe(path)
    assert preview_recipe(loaded, ModelDirectory(home / "chat")).puts_aside
    said: list[str] = []

    def stop(line: str) -> None:
        if "held out, since" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # the run can go on, though nothing else is done
        run(loaded, tmp_path / "run", RunOptions(), Progress(say=stop))
    run(loaded, tmp_path / "run", RunOptions(), Progress(say=said.append))
    (told,) = [line for line in said if "held out, since" in line]
    assert told.startswith("instructions: held out, since no held-out text is named: ")
    kept = (tmp_path / "run/stages/instructions/heldout.jsonl").read_text().splitlines()
    every = (home / "chat.jsonl").read_text().splitlines()
    assert 0 < len(kept) < 10
    assert set(kept) < set(every)
    entries = read_entries(tmp_path / "run/ledger.jsonl")
    facts = {text["name"]: text for text in entries["texts"].outputs["texts"][1:]}
    assert entries["instructions/measure"].outputs["heldout"].keys() == {"text", "instructions"}
    assert facts["instructions"]["put_aside"].startswith(f"{len(kept)} of 60")


def test_regrow_train_learns_answers(home: Path, tmp_path: Path) -> None:
    recipe = training_recipe(
        str(home / "chat"), [home / "chat.jsonl"], home / "chat-heldout.jsonl", SETTINGS
    )
    result = train_model(recipe, tmp_path / "out", options=RunOptions())
    assert result.unit == "bits per byte"
    assert result.heldout[-1][1] < result.heldout[0][1] - 0.5
    assert result.tokens >= 2_000


def test_a_killed_training_by_lora_ends_in_the_same_bits(home: Path, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    def stop(update: Any) -> None:
        if update.doing.startswith("step 3"):
            raise StopError

    recipe = training_recipe(
        str(home / "openba"), [home / "chat.jsonl"], None,
        SETTINGS | {"tokens": 1_000, "save_every": 0, "lora": {"rank": 2}},
    )  # fmt: skip
    with pytest.raises(StopError):
        train_model(recipe, tmp_path / "a", options=RunOptions(), progress=Progress(update=stop))
    (saved,) = (tmp_path / "a/stages/train/training").glob("*3/model.safetensors")
    names = load_file(saved).keys()
    assert names
    assert all(".lora_" in name for name in names)
    again = train_model(recipe, tmp_path / "a", options=RunOptions())
    whole = train_model(recipe, tmp_path / "b", options=RunOptions())
    for one, other in zip(
        load_model(again.model).parameters(), load_model(whole.model).parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_what_is_left_out_is_said(home: Path, tmp_path: Path) -> None:
    long = {"prompt": "river " * 200, "completion": "stone"}
    named = {"inputs": "What is <eos>?", "targets": "a token"}
    text = write_lines(tmp_path / "chat.jsonl", [*conversations(60), long, named])
    recipe = training_recipe(str(home / "chat"), [text], None, SETTINGS | {"tokens": 200})
    said: list[str] = []
    train_model(recipe, tmp_path / "out", options=RunOptions(), progress=Progress(say=said.append))
    (told,) = [line for line in said if line.startswith("train: of ")]
    assert told.partition(" conversations, ")[2] == (
        "1 are longer than row_length (96); 1 have the name of a special token in their words"
    )


@pytest.mark.parametrize(
    ("stages", "data", "error"),
    [
        (
            "[{name: a, recover: {tokens: 100}}, {name: b, recover: {objective: instructions}}]",
            "{train: text.jsonl}",
            "stages: b: instructions are learned from conversations, and a needs data.train as "
            r"text; give data: \{train: ...\} in b",
        ),
        (
            "[{name: a, recover: {tokens: 100}, data: {train: chat.jsonl}}]",
            "{train: text.jsonl}",
            "data: a stage trains on the text of the recipe, unless its objective is instructions",
        ),
        (
            "[{name: a, recover: {objective: instructions}}]",
            "{train: {path: chat.jsonl, weight: 2}}",
            "chat: weight: has no meaning for conversations",
        ),
        (
            "[{name: x, recover: {objective: instructions}, data: {train: chat.jsonl, "
            "heldout: {h: chat.jsonl}}}]",
            "{train: text.jsonl, heldout: {h: text.jsonl}}",
            "two texts are called 'h'",
        ),
        (
            "[{name: x, recover: {objective: instructions}, data: {train: chat.jsonl, "
            "heldout: {heldout: chat.jsonl}}}]",
            "{train: text.jsonl}",
            "two texts are called 'heldout'",
        ),
        (
            "[{name: x, recover: {objective: instructions}, data: {train: text.jsonl}}]",
            "{train: text.jsonl}",
            r"x: data.train: .*text.jsonl: line 1 has no 'messages', nor 'prompt' and 'completion'",
        ),
        (
            "[{name: x, recover: {tokens: 100}}]",
            "{train: chat.jsonl}",
            r"data.train: .*line 1 has no key 'text' but 'messages': conversations, whose answers "
            "are learned with the `objective` instructions",
        ),
        (
            "[{name: x, recover: {objective: instructions, row_length: 4}}]",
            "{train: chat.jsonl}",
            r"stages: x: recover: no conversation is left to learn of 5\d: 5\d are longer than "
            r"row_length \(4\)",
        ),
    ],
)
def test_mistakes_are_one_line(
    home: Path, tmp_path: Path, stages: str, data: str, error: str
) -> None:
    path = home / "wrong.yaml"
    path.write_text(f"name: r\nmodel: ./chat\ndata: {data}\nstages: {stages}\n", encoding="utf-8")
    with pytest.raises(UserError, match=error):
        api.run(path, tmp_path / "run")


def test_texts_can_have_another_key(home: Path, tmp_path: Path) -> None:
    """Also when a part of them is put aside."""
    other = write_lines(
        tmp_path / "other.jsonl", [{"content": text, "text": 1} for text in sentences(60)]
    )
    plans = [
        plan_run(
            training_recipe(str(home / "chat"), [path], None, {"row_length": 32}, text_key=key),
            tmp_path / "out", RunOptions(), QUIET,
        )
        for path, key in ((home / "text.jsonl", "text"), (other, "content"))
    ]  # fmt: skip
    assert plans[0].corpus.identity == plans[1].corpus.identity
    assert plans[0].heldout_hashes == plans[1].heldout_hashes
    for plan in plans:
        plan.put_aside["heldout"].write()
        text = plan.recipe.heldout["heldout"]
        assert set(read_documents(text.path, text.reading)) < set(sentences(60))


def test_useless_heldout_conversations_are_named(home: Path, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "x y " * 1_500}, {"role": "assistant", "content": "z"}]
    path = write_lines(tmp_path / "long.jsonl", [{"messages": turns}] * 3)
    given = ["train", home / "chat", tmp_path / "out", "--objective", "instructions"]
    given += ["--text", home / "chat.jsonl", "--heldout", path, "--set", "row_length=96"]
    done = CliRunner().invoke(app.app, [str(each) for each in given])
    assert done.exit_code == 2
    assert " ".join(done.output.split()).endswith(
        f"--heldout: {path}: no conversation is left to learn of 3: 3 are longer than the most "
        "that is measured (2,048)"
    )


def test_a_file_that_begins_with_what_is_too_long(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.pipeline.conversation_checks._AT_ONCE", 2)
    turns = [{"role": "user", "content": "x y " * 99}, {"role": "assistant", "content": "z"}]
    path = write_lines(tmp_path / "a.jsonl", [{"messages": turns}] * 5 + conversations(20))
    recipe = training_recipe(str(home / "chat"), [path], home / "chat-heldout.jsonl", SETTINGS)
    plan_run(recipe, tmp_path / "out", RunOptions(), QUIET)
    write_lines(path, [{"messages": turns}] * 5)
    with pytest.raises(UserError, match=r"left to learn of 5: 5 are longer than row_length \(96\)"):
        plan_run(recipe, tmp_path / "out", RunOptions(), QUIET)


def test_options_of_regrow_train_are_named_in_errors(home: Path, tmp_path: Path) -> None:
    def said(*options: str) -> str:
        given = ["train", str(home / "chat"), str(tmp_path / "out"), *options]
        done = CliRunner().invoke(app.app, given)
        assert done.exit_code == 2
        assert not (tmp_path / "out/stages").exists()
        return " ".join(done.output.split())

    text, chat = f"--text={home / 'text.jsonl'}", f"--text={home / 'chat.jsonl'}"
    assert "learned with the --objective instructions" in said(chat)
    assert "line 1 has no key 'content'" in said(text, "--text-key=content")
    assert "--lora: --set gives the rank too" in said(text, "--lora=2", "--set=lora.rank=3")
    for name in ("w", "input_layernorm", "embed_tokens"):
        told = said(text, "--lora=1", f"--set=lora.targets=[{name}]", "--set=row_length=32")
        assert f"--set lora.targets: no matrix of the layers is called {name}; they have " in told
    assert "--set lora.alpha" in said(text, "--lora=2", "--set=lora.alpha=-4")
    told = said(chat, "--objective=instructions", "--text-key=content")
    assert told == "regrow: --text-key: has no meaning for conversations; leave it out"
    told = said(text, "--lora=2", "--set=embedding_rate=0")
    assert told.startswith("regrow: --set: embedding_rate: lora trains no embeddings")
    for option in ("--lora=2", "--set=embedding_rate=0"):
        assert "drawn at random" in said(text, option, "--from-scratch", "--set=row_length=32")
