"""Unfinished trainings are compared with the steps of the recipe."""

import json
from pathlib import Path

import pytest

from regrow.common.errors import UserError
from regrow.pipeline.steps import TRAINING_FILE, find_changes


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
