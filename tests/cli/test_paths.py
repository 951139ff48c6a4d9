"""Commands take paths through a parent directory; a recipe takes no path that leaves its own."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from regrow.cli import app
from tests.tiny import sentences, write_model, write_text

RECIPE = """name: small
model: m
data: {train: text.jsonl, heldout: {domain: heldout.jsonl}}
stages:
  - name: once
    cut: {vocab: {counts: counts, size: 300}, layers: 3}
    recover: {tokens: 256, row_length: 64}
"""
TEXTS = "--text ../data/text.jsonl --heldout ../data/heldout.jsonl"
SETTINGS = "--set tokens=256 --set row_length=64"
COUNT = "vocab count ../data/m ../data/counts --corpus ../data/text.jsonl --workers 1"


@pytest.mark.parametrize(
    "commands",
    [
        [f"train ../data/m out {TEXTS} {SETTINGS}"],
        [COUNT, "run ../data/recipe.yaml"],
        [
            "score ../data/m ../data/scores --by magnitude",
            "prune ../data/m one --ffn 40 --scores ../data/scores",
            "prune ../data/m two --cut one/../one/regrow_cut.json",
        ],
        [
            COUNT,
            "vocab plan ../data/m ../data/counts --size 300 --out ../data/plan.json",
            "prune ../data/m out --vocab-plan ../data/plan.json",
        ],
    ],
)
def test_paths_through_a_parent_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    write_model(tmp_path / "data/m")
    write_text(tmp_path / "data/text.jsonl", sentences(60))
    write_text(tmp_path / "data/heldout.jsonl", sentences(6, seed=1))
    (tmp_path / "data/recipe.yaml").write_text(RECIPE)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for command in commands:
        result = CliRunner().invoke(app.app, command.split())
        assert result.exit_code == 0, (command, result.output)
