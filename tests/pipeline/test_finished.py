"""A run that is finished says so at once, and one whose files changed is checked as a whole."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.pipeline.ledger import read_entries
from tests.tiny import sentences, write_model, write_text

RECIPE = """name: small
model: m
data: {train: texts, heldout: {domain: held}}
prompts: [The river]
answer_tokens: 2
stages:
  - name: depth
    recover: {tokens: 128, row_length: 32, batch_tokens: 64}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("made")
    write_model(home / "m")
    (home / "texts").mkdir()
    write_text(home / "texts/a.jsonl", sentences(30))
    (home / "held").mkdir()
    write_text(home / "held/a.jsonl", sentences(4, seed=1))
    (home / "small.yaml").write_text(RECIPE)
    regrow.run(home / "small.yaml", home / "run")
    return home


@pytest.fixture
def home(made: Path, tmp_path: Path) -> Path:
    """A finished run whose files may be changed."""
    home = Path(shutil.copytree(made, tmp_path / "home", symlinks=True))
    assert "not read" not in again(home)  # a copy is checked as a whole, and noted again
    return home


def again(home: Path, **options: Any) -> str:
    """Run the recipe once more; what is said."""
    said: list[str] = []
    regrow.run(home / "small.yaml", home / "run", progress=Progress(say=said.append), **options)
    return "\n".join(said)


def rewritten(path: Path, data: bytes) -> None:
    """Change the content of a file, and set back its time."""
    times = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_it_is_said_at_once_and_without_torch(home: Path) -> None:
    before = (home / "run/report.html").stat().st_ino
    code = (
        "import sys; from regrow.cli.app import app\n"
        "app(standalone_mode=False)\n"
        "print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "small.yaml", "--out", "run"], cwd=home, check=True,
        capture_output=True, text=True,
    )  # fmt: skip
    assert "torch" not in done.stdout.split()
    assert "finished already: run/model, run/report.html" in done.stderr
    assert "their content was not read" in done.stderr
    assert "run/model" in done.stdout
    assert (home / "run/report.html").stat().st_ino == before


def test_a_run_under_another_path_is_known_too(home: Path) -> None:
    assert "not read" in again(home)
    assert "not read" in again(home, redo=True)


@pytest.mark.parametrize("text", ["texts/a.jsonl", "held/a.jsonl"])
def test_a_text_that_changed_is_noticed(home: Path, text: str) -> None:
    path = home / text
    rewritten(path, path.read_bytes().replace(b"The ", b"One "))
    with pytest.raises(UserError, match="the recipe changed"):
        again(home)


def test_a_file_that_is_new_in_a_directory_is_noticed(home: Path) -> None:
    write_text(home / "texts/b.jsonl", sentences(3, seed=3))
    with pytest.raises(UserError, match=r"data\.train: changed"):
        again(home)


@pytest.mark.parametrize("of", ["m", "run/stages/depth/model"])
def test_a_model_that_changed_is_noticed(home: Path, of: str) -> None:
    path = home / of / "model.safetensors"
    data = path.read_bytes()
    rewritten(path, data[:-4096] + bytes(4096))
    with pytest.raises(UserError, match=r"the recipe changed|not as depth/recover left it"):
        again(home)


def test_another_recipe_is_noticed(home: Path) -> None:
    (home / "small.yaml").write_text(RECIPE.replace("tokens: 128", "tokens: 192"))
    with pytest.raises(UserError, match="tokens: 128 -> 192"):
        again(home)


def test_what_is_missing_is_made_again(home: Path) -> None:
    (home / "run/report.html").unlink()
    (home / "run/model").unlink()
    assert "not read" not in again(home)
    assert (home / "run/report.html").is_file()
    assert (home / "run/model/config.json").is_file()
    (home / "run/model").unlink()
    (home / "run/model").symlink_to(home / "m")
    assert "not read" not in again(home)
    assert (home / "run/model").readlink() == Path("stages/depth/model")


def test_a_comparison_that_was_not_made_is_made(home: Path) -> None:
    assert "going on: " in again(home, compare=["control"])
    assert "control/recover" in read_entries(home / "run/ledger.jsonl")
    assert "not read" in again(home)
    assert "not read" in again(home, compare=["control"])


@pytest.mark.parametrize("damage", ["", "[]", '{"run": 1, "files": 2}', "NUL"])
def test_a_damaged_note_is_no_error(home: Path, damage: str) -> None:
    if damage == "NUL":
        noted = json.loads((home / "run/finished.json").read_text())
        noted["files"]["a\0b"] = [[1]]
        damage = json.dumps({**noted, "compare": [["control"]]})
    (home / "run/finished.json").write_text(damage)
    assert again(home).startswith("finished already")
    assert json.loads((home / "run/finished.json").read_text())["compare"] == []


def test_other_prompts_change_only_the_answers_also_of_a_training(
    made: Path, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(made, tmp_path / "home"))
    said: list[str] = []

    def train(**options: Any) -> None:
        progress = Progress(say=said.append)
        regrow.train(home / "small.yaml", home / "trained", progress=progress, **options)

    train()
    before = read_entries(home / "trained/ledger.jsonl")
    (home / "small.yaml").write_text(RECIPE.replace("The river", "The stone"))
    with pytest.raises(UserError, match=r"invalidates original \(answers\), depth \(answers\);"):
        train()
    train(redo=True)
    after = read_entries(home / "trained/ledger.jsonl")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"recipe", "original/answers", "depth/answers"}
    assert "going on: " in "\n".join(said)
