"""Runs and trainings from Python."""

from pathlib import Path

import pytest

import regrow
from tests.tiny import sentences, write_model, write_text

RECIPE = """
name: small
model: m
data: {train: train.txt, heldout: {other: heldout.txt}}
stages:
  - {name: a, cut: {layers: 3, by: random, refit: false}, recover: {tokens: 1K, row_length: 64}}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    write_model(tmp_path / "m")
    write_text(tmp_path / "train.txt", sentences(40))
    write_text(tmp_path / "heldout.txt", sentences(9, seed=1))
    (tmp_path / "r.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def test_a_comparison_by_a_wrong_name(home: Path) -> None:
    for wrong in ("contrl", ["contrl"]):
        with pytest.raises(regrow.UserError, match="compare: control or at-once is wanted, not"):
            regrow.run(home / "r.yaml", home / "out", compare=wrong)


def test_a_recipe_that_trains(home: Path) -> None:
    recipe = regrow.training_recipe(
        home / "m", str(home / "train.txt"), home / "heldout.txt", tokens="1K", row_length=64
    )
    assert recipe.stages[0].recover is not None
    assert recipe.stages[0].recover.tokens == 1_000
    assert recipe.data.train_paths == [home / "train.txt"]


def test_errors_of_a_training_name_arguments(home: Path) -> None:
    with pytest.raises(regrow.UserError, match=r"^learning_rate: more than 0 is wanted"):
        regrow.training_recipe("m", "train.txt", "heldout.txt", learning_rate=-1)
    with pytest.raises(regrow.UserError, match="a recipe is wanted, not a directory"):
        regrow.train(home / "m", home / "out")


def test_numbers_of_a_recipe_may_have_suffixes(home: Path) -> None:
    (stage,) = regrow.preview(home / "r.yaml").stages
    assert stage.training is not None
    assert stage.training.tokens == 1_000
