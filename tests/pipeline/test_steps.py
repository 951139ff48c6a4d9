"""What a changed recipe invalidates: steps that are done, and unfinished trainings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regrow.common.errors import UserError
from regrow.cuts.cut import AxisCut, Cut
from regrow.pipeline.ledger import Entry, Step, step_after
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.steps import (
    TRAINING_FILE,
    TextHashes,
    find_changes,
    plan_steps,
    reference_keys,
)
from regrow.training.settings import RecoverySettings

CUT = Cut("0" * 64, {"ffn": AxisCut(4, np.array([0, 2]))})


@pytest.fixture
def cut_file(tmp_path: Path) -> Path:
    CUT.save(tmp_path / "cut.json")
    return tmp_path / "cut.json"


def steps_of(cut: dict[str, Any]) -> dict[str, Step]:
    recipe = Recipe.model_validate(
        {"name": "r", "model": "m", "data": {"train": "a.jsonl"},
         "stages": [{"name": "width", "cut": cut}]}
    )  # fmt: skip
    return plan_steps(recipe, {}, TextHashes("1" * 64, {}), "")


def done(steps: dict[str, Step]) -> dict[str, Entry]:
    return {n: Entry(n, each.key, each.inputs, {}, {}, "", 0.0) for n, each in steps.items()}


def test_references_of_another_prefix_are_measured_apart() -> None:
    one, other = (
        RecoverySettings(objective="d-ul2", tokens=1_000, row_length=64, prefix=prefix)
        for prefix in ("causal", "bidirectional")
    )
    (key,), (other_key,) = reference_keys(one), reference_keys(other)
    assert other_key == f"{key}, bidirectional prefix"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"refit": False}, "width.cut.refit: nothing -> false"),
        ({"refit_passes": 2}, "width.cut.refit_passes: 0 -> 2"),
        ({"calibration_tokens": 512}, "width.cut.calibration_tokens: 16384 -> 512"),
    ],
)
def test_how_a_cut_file_is_refitted_decides_the_model(
    cut_file: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    steps = steps_of({"cut": str(cut_file)})
    changes = find_changes(steps_of({"cut": str(cut_file), **settings}), done(steps), tmp_path)
    assert changes.words() == "width"
    assert changes.reasons == (reason,)


def test_a_cut_file_that_is_refitted_as_by_default_keeps_its_key(cut_file: Path) -> None:
    steps = steps_of({"cut": str(cut_file), "refit": None, "calibration_tokens": 16_384})
    cut = {"cut": {"cut": CUT.to_json()}, "train": "1" * 64, "seed": 0}
    assert steps["width/carve"].key == step_after(steps["original"], "width/carve", cut).key


@pytest.mark.parametrize(
    "begun", [{}, {"key": "a"}, {"key": 3, "inputs": {}}, {"key": "a", "inputs": []}]
)
def test_a_training_that_was_begun_without_its_facts_is_named(
    tmp_path: Path, begun: object
) -> None:
    path = tmp_path / "stages/depth" / TRAINING_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(begun))
    with pytest.raises(UserError, match=r"training\.json: has no key and inputs of a training"):
        find_changes({}, {}, tmp_path)


def test_a_training_of_a_stage_that_is_gone_is_found(tmp_path: Path) -> None:
    path = tmp_path / "stages/depth" / TRAINING_FILE
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"key": "a", "inputs": {}}))
    assert find_changes({}, {}, tmp_path).trainings == ("depth",)
