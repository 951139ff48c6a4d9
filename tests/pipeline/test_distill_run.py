"""Recoveries that learn from a teacher: in a run, refused before it, and in several processes."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import regrow
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.recipe_file import parse_recipe
from regrow.pipeline.stage_layouts import layouts_by_stage
from regrow.pipeline.summary import summarise
from regrow.training.checkpoints import last_checkpoint
from tests.tiny import sentences, write_model, write_text

torch.set_num_threads(1)
Recipe = dict[str, Any]


def recover(tokens: int, **changes: Any) -> dict[str, Any]:
    return {"tokens": tokens, "row_length": 32, "batch_tokens": 64, "learning_rate": 0.01,
            "precision": "fp32", **changes}  # fmt: skip


def recipe(home: Path) -> Recipe:
    return {
        "name": "tiny", "model": str(home / "m"), "seed": 3, "threads": 1,
        "data": {"train": str(home / "train.jsonl"),
                 "heldout": {"domain": str(home / "heldout.jsonl")}},
        "stages": [
            {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
             "recover": recover(256, distill={"from": "original"})},
            {"name": "vocabulary", "cut": {"vocab_size": 300},
             "recover": recover(
                 256, distill={"from": "previous", "weight": 1, "temperature": 2})},
            {"name": "longer", "recover": recover(64, distill={"from": "original"})},
        ],
    }  # fmt: skip


def changed(recipe: Recipe, stage: int, **distill: Any) -> Recipe:
    new = copy.deepcopy(recipe)
    new["stages"][stage]["recover"]["distill"] = distill
    return new


def go(recipe: Recipe, out: Path, **options: Any) -> None:
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    regrow.run(path, out, **options)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("distilled")
    write_model(home / "m")
    write_text(home / "train.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    go(recipe(home), home / "run", compare=["control", "at-once"])
    return home


def test_the_report_says_who_taught(home: Path) -> None:
    stages = {stage.name: stage for stage in summarise(home / "run").stages}
    assert stages["depth"].recovery.endswith(
        ", distilled from the original (weight 0.5, temperature 1)"
    )
    assert stages["vocabulary"].recovery.endswith(
        ", distilled from the previous model (weight 1, temperature 2)"
    )
    page = (home / "run/report.html").read_text(encoding="utf-8")
    assert "distilled from the previous model" in page


def test_the_original_is_taught_by_none(home: Path) -> None:
    entries = read_entries(home / "run/ledger.jsonl")
    taught = {
        name: entry.inputs["recover"]["distill"]
        for name, entry in entries.items()
        if name.endswith("/recover")
    }
    original = {"from": "original", "weight": 0.5, "temperature": 1.0}
    assert taught == {
        "depth/recover": original, "longer/recover": original, "at-once/recover": original,
        "vocabulary/recover": {"from": "previous", "weight": 1.0, "temperature": 2.0},
        "control/recover": None,
    }  # fmt: skip


def test_a_teacher_makes_another_model(home: Path, tmp_path: Path) -> None:
    plain = copy.deepcopy(recipe(home))
    del plain["stages"][0]["recover"]["distill"], plain["stages"][1:]
    go(plain, tmp_path / "run")
    curves = []
    for out in (home, tmp_path):
        done = read_entries(out / "run/ledger.jsonl")
        curves.append([loss for _, loss in done["depth/recover"].outputs["curve"]])
    assert not np.allclose(curves[0], curves[1])


def test_another_teacher_is_another_run(home: Path) -> None:
    for other, said in (
        (changed(recipe(home), 1, **{"from": "original", "weight": 1, "temperature": 2}),
         "vocabulary.recover.distill.from: previous -> original"),
        (changed(recipe(home), 0, **{"from": "original", "weight": 0.4}),
         "depth.recover.distill.weight: 0.5 -> 0.4"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=said):
            go(other, home / "run")


def test_a_half_done_training_is_not_taken_up_with_another_teacher(
    home: Path, tmp_path: Path
) -> None:
    from regrow.evaluation.heldout_text import HeldoutText
    from regrow.training.recovery import RecoveryData
    from regrow.training.recovery import recover as train_back
    from regrow.training.settings import RecoverySettings

    class KilledError(Exception):
        pass

    def kill(report: Any) -> None:
        raise KilledError

    run = home / "run"
    settings = RecoverySettings.model_validate(
        recover(128, distill={"from": "original"}, save_every=0)
    )
    heldout = {"h": HeldoutText(home / "heldout.jsonl")}
    data = RecoveryData(sentences(40), heldout, {"h": ""}, {})
    student = ModelDirectory(run / "stages/vocabulary/model")

    def train(teacher: Path | None, on_step: Any = None) -> None:
        taught = None if teacher is None else ModelDirectory(teacher)
        train_back(student, tmp_path, settings, data, seed=0, teacher=taught, on_step=on_step)

    with pytest.raises(KilledError):
        train(home / "m", kill)
    found = last_checkpoint(tmp_path / "training")
    assert found is not None
    assert found.state["run"]["distill"] == {"from": "original"}
    with pytest.raises(UserError, match=r"a checkpoint of another training \(objective was"):
        train(run / "stages/depth/model")
    with pytest.raises(ValueError, match="no teacher"):
        train(None)


_WRONG: list[tuple[int, dict[str, Any], str]] = [
    (2, {"from": "previous"}, "stages.2: recover.distill: nothing is cut here, so the previous"),
    (0, {"from": "me"}, r"stages.0.recover.distill.from: original or previous is wanted, not 'me'"),
    (0, {"weight": 0.5}, "stages.0.recover.distill.from: missing"),
    (0, {"from": "original", "weight": 0}, "distill.weight: more than 0 is wanted, not 0"),
    (0, {"from": "original", "weigt": 1}, "distill.weigt: unknown key; did you mean weight?"),
    (0, {"from": "original", "temperature": -1}, "distill.temperature: more than 0 is wanted"),
    (0, {"form": "original"}, "distill.(form: unknown key; did you mean from|from: missing)"),
]


@pytest.mark.parametrize(("stage", "distill", "message"), _WRONG, ids=lambda _: "")
def test_what_cannot_be_is_refused_in_a_line(
    home: Path, stage: int, distill: dict[str, Any], message: str
) -> None:
    text = yaml.safe_dump(changed(recipe(home), stage, **distill), sort_keys=False)
    with pytest.raises(UserError, match=message) as error:
        parse_recipe(text, Path("r.yaml"))
    assert "\n" not in str(error.value)


def test_before_the_first_cut_there_is_no_teacher(home: Path) -> None:
    first = recipe(home)
    first["stages"] = [first["stages"][2], *first["stages"][:2]]
    with pytest.raises(UserError, match=r"longer: recover.distill: nothing is cut yet, so the o"):
        parse_recipe(yaml.safe_dump(first), Path("r.yaml"))


def test_a_teacher_is_the_original_or_the_model_before(home: Path) -> None:
    parsed = parse_recipe(yaml.safe_dump(recipe(home)), Path("r.yaml"))
    found = layouts_by_stage(parsed.stages, ModelDirectory(home / "m"))
    layout = ModelDirectory(home / "m").layout
    depth, vocabulary, longer = found.values()
    assert (depth.teacher, longer.teacher) == (layout, layout)
    assert vocabulary.teacher == vocabulary.before == depth.after != layout


def test_both_models_must_fit_in_memory(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("regrow.common.memory.available_memory", lambda: 10**5)
    with pytest.raises(UserError, match=r"depth: recover.distill: student and teacher need .* GB"):
        go(recipe(home), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    go(recipe(home), home / "run")  # nothing to do needs none
