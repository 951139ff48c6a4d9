"""A run that is killed anywhere ends in the same bits."""

import random
from pathlib import Path
from typing import Any

import pytest

from regrow.common.publishing import partial_place
from regrow.pipeline.ledger import Ledger
from tests.pipeline.kills import after, killed, lines, longer_than, saved_after
from tests.pipeline.runs import ALL, Finished, assert_same_result, contents, entries, go, written


def test_killed_after_every_step_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    kills = 0
    while lines(out) < len(ALL):
        kills += killed(forks, recipe, out, longer_than(out, lines(out)))
    assert kills >= len(ALL) - 2
    go(finished.recipe, out)
    assert_same_result(out, finished.out)


def test_killed_within_a_training_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    training = out / "stages/depth/training"
    within = 0
    for step in range(4):
        assert killed(forks, recipe, out, saved_after(training, step))
        within += any(training.glob("step-*")) and "depth/recover" not in entries(out)
    assert within
    go(finished.recipe, out)
    assert_same_result(out, finished.out)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment_it_ends_in_the_same_bits(
    finished: Finished, forks: Any, tmp_path: Path, seed: int
) -> None:
    recipe, out = written(finished, tmp_path), tmp_path / "run"
    rng = random.Random(seed)
    kills = sum(killed(forks, recipe, out, after(rng.uniform(0.05, 0.5))) for _ in range(8))
    assert kills
    go(finished.recipe, out)
    assert_same_result(out, finished.out)
    assert not [path for path in out.rglob("*") if "partial" in path.name]


def test_what_killed_writes_left_is_swept(finished: Finished, tmp_path: Path) -> None:
    out = finished.copied(tmp_path / "run")
    for name in ("ledger.jsonl", "report.html", "stages/depth/training.json"):
        partial_place(out / name).touch()
    for name in ("stages/depth/carved", "stages/width/model", "stages/width/exports/step-1"):
        place = partial_place(out / name)
        place.mkdir(parents=True)
        (place / "model.safetensors").touch()
    partial_place(out / "model").symlink_to("stages")
    for name in ("carved", "training"):  # between the record of a recovery and their removal
        (out / "stages/depth" / name).mkdir()
    go(finished.recipe, out)
    assert contents(out) == contents(finished.out)


def test_a_redo_that_was_killed_leaves_no_results_of_before(
    finished: Finished, tmp_path: Path
) -> None:
    """Killed after the ledger forgot the recovery, and before its results were removed."""
    out = finished.copied(tmp_path / "run")
    for name in ("exports/step-00000001", "trained", "training/step-00000001"):
        (out / "stages/depth" / name).mkdir(parents=True)
    with Ledger(out) as ledger:
        ledger.forget(["depth/recover", "depth/measure"])
    go(finished.recipe, out)
    assert {path.name for path in (out / "stages/depth").iterdir()} == {
        path.name for path in (finished.out / "stages/depth").iterdir()
    }
    assert_same_result(out, finished.out)
