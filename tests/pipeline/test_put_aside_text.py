"""A recipe or a training without a held-out text: a part of the training text is put aside."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from regrow.corpus.put_aside import put_aside
from regrow.corpus.text import document_hash, read_documents
from regrow.pipeline.ledger import read_entries
from tests.threads import use_threads
from tests.tiny import sentences, write_model, write_text

SETTINGS = ["--set=tokens=256", "--set=row_length=32", "--set=batch_tokens=128"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_model(home / "m")
    (home / "texts").mkdir()
    write_text(home / "texts/a.jsonl", sentences(60))
    write_text(home / "texts/b.jsonl", sentences(60, seed=1))
    return home


@pytest.fixture
def regrow(home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command in that directory, in this process."""
    monkeypatch.chdir(home)
    return lambda *words: CliRunner().invoke(app.app, list(map(str, words)))


@pytest.mark.parametrize("texts", [["texts"], ["texts/a.jsonl", "texts/b.jsonl"]])
def test_a_training_puts_some_of_its_text_aside(
    home: Path, regrow: Any, tmp_path: Path, texts: list[str]
) -> None:
    command = ["train", "m", tmp_path / "out", *(f"--text={text}" for text in texts), *SETTINGS]
    done = regrow(*command)
    assert done.exit_code == 0, done.output
    heldout = [*read_documents(tmp_path / "out/heldout.jsonl")]
    words = f"{len(heldout)} of 120 documents, 5."
    assert f"held out, since no held-out text is named: {words}" in " ".join(done.stderr.split())
    assert len(heldout) >= 5
    entries = read_entries(tmp_path / "out/ledger.jsonl")
    trained, held = entries["texts"].outputs["texts"]
    assert (trained["documents"], held["documents"]) == (120 - len(heldout), len(heldout))
    assert held["put_aside"].startswith(words)
    assert entries["train/measure"].outputs["heldout"]["heldout"]["tokens"] == held["tokens"]
    assert words in (tmp_path / "out/report.html").read_text()
    again = regrow(*command, "--json")
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["heldout"][-1][0] >= 256


def recipe(path: Path, train: str, more: str = "") -> Path:
    path.write_text(
        f"name: small\nmodel: m\ndata: {{train: {train}{more}}}\n"
        "stages:\n  - name: depth\n    cut: {layers: 3}\n"
        "    recover: {tokens: 256, row_length: 32, batch_tokens: 128}\n"
    )
    return path


def test_a_recipe_without_a_held_out_text(home: Path, regrow: Any, tmp_path: Path) -> None:
    path = recipe(home / "small.yaml", "texts")
    shown = regrow("plan", path)
    assert shown.exit_code == 0, shown.output
    assert "held out: 5% of the training text" in " ".join(shown.stdout.split())
    assert json.loads(regrow("plan", path, "--json").stdout)["puts_aside"] is True
    done = regrow("run", path, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    entries = read_entries(tmp_path / "out/ledger.jsonl")
    assert entries["depth/measure-cut"].outputs["heldout"].keys() == {"heldout"}
    changed = write_text(tmp_path / "other.jsonl", sentences(90, seed=4))
    before = (tmp_path / "out/heldout.jsonl").read_bytes()
    path.write_text(path.read_text().replace("train: texts", f"train: {changed}"))
    refused = regrow("run", path, "--out", tmp_path / "out")
    assert "the recipe changed (data.heldout.heldout: " in refused.stderr
    assert (tmp_path / "out/heldout.jsonl").read_bytes() == before


def test_a_source_keeps_text_to_train_on(home: Path, regrow: Any, tmp_path: Path) -> None:
    others = sentences(60)
    write_text(tmp_path / "others.jsonl", others)
    candidates = ((f"notes {number} " * 9).strip() for number in range(500))
    notes = next(
        text
        for text in candidates
        if document_hash(text) in put_aside([text, *others].copy).remains
    )
    (tmp_path / "notes.txt").write_text(notes)
    sources = [f"{{path: {tmp_path / name}}}" for name in ("notes.txt", "others.jsonl")]
    path = recipe(home / "sources.yaml", f"[{', '.join(sources)}]")
    done = regrow("run", path, "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "data.heldout: the only document of notes would be held out" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_text_that_cannot_be_split_is_refused_in_one_line(
    home: Path, regrow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_threads(monkeypatch)
    short = write_text(tmp_path / "short.jsonl", sentences(5))
    done = regrow("train", "m", tmp_path / "out", "--text", short, *SETTINGS)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert "regrow: --heldout: the text has " in done.stderr
    assert regrow("corpus", "tokenise", "m", tmp_path / "s", "--text", "texts").exit_code == 0
    done = regrow("train", "m", tmp_path / "out", "--text", tmp_path / "s", *SETTINGS)
    assert "regrow: --heldout: missing; only a part of text files can be put aside" in done.stderr
    named = recipe(home / "named.yaml", "texts", ", heldout: {}")
    assert "data.heldout: at least 1 is wanted" in regrow("run", named).stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "short.jsonl"]
