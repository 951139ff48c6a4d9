"""Finished runs that no test changes, and processes to kill."""

from typing import Any

import pytest

from regrow.architectures.openba import OPENBA
from regrow.common.progress import Progress, Update
from tests.forks import imported
from tests.pipeline.runs import Finished, Recipe, go, recover
from tests.tiny import sentences, write_model, write_seq2seq, write_text


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    home = tmp_path_factory.mktemp("pipeline")
    write_model(home / "m")
    write_text(home / "train.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    write_text(home / "more.jsonl", sentences(60, seed=2))
    (home / "other.txt").write_text("Snow fell on the town, and nobody came.")
    recipe: Recipe = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {
            "train": str(home / "train.jsonl"),
            "heldout": {"domain": str(home / "heldout.jsonl"), "other": str(home / "other.txt")},
        },
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
             "recover": recover(320, evaluate_every=128, save_every=0)},
            {"name": "width", "cut": {"ffn": 24, "hidden": 28, "calibration_tokens": 512},
             "recover": recover(128)},
            {"name": "vocabulary", "cut": {"vocab_size": 300}, "recover": recover(128)},
        ],
    }  # fmt: skip
    updates: list[Update] = []
    said: list[str] = []
    result = go(recipe, home / "run", progress=Progress(update=updates.append, say=said.append))
    return Finished(home, recipe, home / "run", result, updates, said)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An OpenBA in two cuts and a recovery without a cut, beside both comparisons."""
    home = tmp_path_factory.mktemp("seq2seq")
    write_seq2seq(home / "m", OPENBA)
    write_text(home / "train.jsonl", sentences(40))
    text = sentences(4, seed=1)
    write_text(home / "heldout.jsonl", [*text, " ".join(text)])
    cut = {"calibration_tokens": 512}
    recipe: Recipe = {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"),
                 "heldout": {"domain": str(home / "heldout.jsonl")}},
        "prompts": ["The river"], "answer_tokens": 3,
        "stages": [
            {"name": "depth", "cut": {"layers": {"encoder": 2, "decoder": 3}, **cut},
             "recover": recover(320, evaluate_every=128)},
            {"name": "width", "cut": {"ffn": 256, "hidden": 16, "heads": 2, **cut},
             "recover": recover(128)},
            {"name": "longer", "recover": recover(128)},
        ],
    }  # fmt: skip
    result = go(recipe, home / "run", compare=["control", "at-once"])
    return Finished(home, recipe, home / "run", result, [], [])


@pytest.fixture(scope="module")
def forks() -> Any:
    """Processes from one that has imported all, so that many can be killed in little time."""
    with imported("tests.pipeline.kills", "regrow.api", "regrow.pipeline.run") as context:
        yield context
