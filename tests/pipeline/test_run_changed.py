"""A finished run whose recipe or files are changed."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from regrow.common.errors import UserError
from regrow.evaluation.registry import EVALUATIONS, Evaluation
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.steps import RESULTS
from regrow.pipeline.summary import summarise
from tests.pipeline.kills import killed
from tests.pipeline.runs import (
    ALL,
    Finished,
    Recipe,
    assert_same_result,
    contents,
    entries,
    flip,
    go,
    written,
)

CHANGES: Mapping[str, tuple[list[tuple[str, Any]], str, str, list[str]]] = {
    "a size": ([("stages.width.cut.ffn", 20)], "width.cut.ffn: 24 -> 20",
               "width, vocabulary", ALL[10:]),
    "a score": ([("stages.width.cut.by", "random")], "width.cut.by: nothing -> random",
                "width, vocabulary", ALL[10:]),
    "a recovery": ([("stages.width.recover.tokens", 192)], "width.recover.tokens: 128 -> 192",
                   "width, vocabulary", ALL[12:]),
    "a prompt": ([("prompts", ["Rain"])], 'prompts: ["The river"] -> ["Rain"]',
                 "original (answers), depth (answers), width (answers), vocabulary (answers)",
                 [name for name in ALL if "answers" in name]),
    "the answers' length": ([("answer_tokens", 2)], "answer_tokens: 3 -> 2",
                            "original (answers), depth (answers), width (answers), "
                            "vocabulary (answers)", [name for name in ALL if "answers" in name]),
    "a prompt and a held-out text": (
        [("prompts", ["Rain"]), ("data.heldout.other", "more.jsonl")],
        'data.heldout.other: changed; prompts: ["The river"] -> ["Rain"]',
        "original (losses and answers), depth (losses and answers), width (losses and answers), "
        "vocabulary (losses and answers)",
        [name for name in ALL if "measure" in name or "answers" in name]),
    "the seed": ([("seed", 4)], "seed: 3 -> 4",
                 "depth, width, vocabulary", ALL[5:]),
    "the train text": ([("data.train", "more.jsonl")], "data.train: changed",
                       "depth, width, vocabulary", ALL[5:]),
    "a held-out text": ([("data.heldout.other", "more.jsonl")], "data.heldout.other: changed",
                        "original (losses), depth (losses), width (losses), vocabulary (losses)",
                        [name for name in ALL if "measure" in name]),
    "a name": ([("stages.vocabulary.name", "words")], "vocabulary is no longer there",
               "vocabulary", ALL[15:]),
}  # fmt: skip


def as_changed(finished: Finished, name: str) -> Recipe:
    changes = [
        (key, str(finished.home / value) if key.startswith("data") else value)
        for key, value in CHANGES[name][0]
    ]
    return finished.changed(*changes)


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_recipe_is_refused(finished: Finished, tmp_path: Path, name: str) -> None:
    _, change, invalid, _ = CHANGES[name]
    out = finished.copied(tmp_path / "run")
    before = contents(out)
    with pytest.raises(UserError) as error:
        go(as_changed(finished, name), out)
    assert str(error.value) == (
        f"{out}: the recipe changed ({change}); this invalidates {invalid}; set `redo` to do "
        "them again, or choose another directory"
    )
    assert contents(out) == before


def test_a_new_evaluation_is_one_entry(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Evaluation(lambda model, *_: model.num_parameters(), "all", "counting")
    monkeypatch.setitem(EVALUATIONS, "size", entry)
    recipe = {**finished.recipe, "stages": finished.recipe["stages"][:1]}
    out = tmp_path / "run"
    go(recipe, out)
    entries = read_entries(out / "ledger.jsonl")
    found = {name: each.outputs.get("size") for name, each in entries.items()}
    sizes = {name: size for name, size in found.items() if size is not None}
    assert sizes.keys() == {"original/measure", "depth/measure-cut", "depth/measure"}
    assert sizes["depth/measure"] == sizes["depth/measure-cut"] < sizes["original/measure"]


def test_results_of_another_version_are_refused(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = finished.copied(tmp_path / "run")
    before = contents(out)
    monkeypatch.setattr("regrow.pipeline.steps.RESULTS", RESULTS + 1)
    with pytest.raises(UserError, match="another version of regrow, which gives other results"):
        go(finished.recipe, out)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["a recovery", "a held-out text", "a prompt", "a name"])
def test_redo_does_exactly_these_steps_again(finished: Finished, tmp_path: Path, name: str) -> None:
    stale = CHANGES[name][3]
    out = finished.copied(tmp_path / "run")
    before = entries(out)
    models = contents(out / "stages")
    go(as_changed(finished, name), out, redo=True)
    after = entries(out)
    again = {n for n, entry in after.items() if n not in before or entry != before[n]}
    renamed = {n.replace("vocabulary", "words") for n in stale} if name == "a name" else stale
    assert again - {"recipe", "texts"} == set(renamed)
    recovered = {n.partition("/")[0] for n in stale if n.endswith("/recover")}
    for path, data in contents(out / "stages").items():
        if path.endswith("README.md") and name == "a held-out text":
            assert data != models[path]  # it has the new scores
        elif path.partition("/")[0] not in recovered and not path.startswith("words"):
            assert data == models[path]
    summary = summarise(out)
    assert [stage.done for stage in summary.stages] == [True] * 3
    assert all(row.after_cut for row in summary.models[1:])
    assert summary.recipe_text == out.with_suffix(".yaml").read_text()
    # And back again: what is put into the same steps comes out of them.
    go(finished.recipe, out, redo=True)
    shutil.rmtree(out / "stages/words", ignore_errors=True)
    assert_same_result(out, finished.out)


def test_a_curve_of_another_text_is_not_shown(finished: Finished, tmp_path: Path) -> None:
    shown = summarise(finished.out).stages[0].heldout
    assert shown is not None
    points = shown.texts["domain"]
    assert [tokens for tokens, _ in points] == [0, 128, 256, 320]
    assert points[0][1] > points[1][1] > points[-1][1]
    out = finished.copied(tmp_path / "run")
    recipe = finished.changed(("data.heldout.domain", str(finished.home / "other.txt")))
    go(recipe, out, redo=True)
    shown = summarise(out).stages[0].heldout
    assert shown is not None
    assert [tokens for tokens, _ in shown.texts["domain"]] == [0, 320]


@pytest.mark.parametrize(
    "change", [("stages.depth.recover.save_every", 60), ("threads", None), ("name", "other")]
)
def test_what_changes_nothing_may_change(
    finished: Finished, tmp_path: Path, change: tuple[str, Any]
) -> None:
    out = finished.copied(tmp_path / "run")
    go(finished.changed(change), out)
    before, after = entries(finished.out), entries(out)
    assert [name for name in after if after[name] != before[name]] == ["recipe"]


def test_other_settings_of_a_half_done_training_are_noticed(
    finished: Finished, forks: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    recipe = finished.changed(("stages", finished.recipe["stages"][:1]))
    training = out / "stages/depth/training"
    assert killed(
        forks, written(finished, tmp_path, recipe), out, lambda: any(training.glob("step-*"))
    )
    other = finished.changed(("stages.depth.recover.learning_rate", 0.02))
    other["stages"] = other["stages"][:1]
    with pytest.raises(UserError, match=r"depth\.recover\.learning_rate: 0\.01 -> 0\.02\); this "
                       r"invalidates depth; set `redo`"):  # fmt: skip
        go(other, out)
    go(other, out, redo=True)
    go(other, tmp_path / "fresh")
    assert_same_result(out, tmp_path / "fresh")


TAMPERING: Mapping[str, Callable[[Path], object]] = {
    "weights": lambda model: flip(model / "model.safetensors"),
    "config": lambda model: flip(model / "config.json"),
    "tokenizer": lambda model: flip(model / "tokenizer_config.json"),
    "gone": shutil.rmtree,
}


@pytest.mark.parametrize("stage", ["depth", "vocabulary"])
@pytest.mark.parametrize("what", TAMPERING)
def test_a_changed_output_is_noticed(
    finished: Finished, tmp_path: Path, stage: str, what: str
) -> None:
    out = finished.copied(tmp_path / "run")
    TAMPERING[what](out / "stages" / stage / "model")
    message = "gone, though the ledger says" if what == "gone" else "not as .*/recover left it"
    if what == "config":  # no JSON any more, or other JSON
        message += "|not JSON|not valid JSON|JSON"
    with pytest.raises(UserError, match=f"stages/{stage}/model.*({message})"):
        go(finished.recipe, out)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_changed_original_is_noticed(finished: Finished, tmp_path: Path, name: str) -> None:
    shutil.copytree(finished.home / "m", tmp_path / "m")
    out = finished.copied(tmp_path / "run")
    moved = finished.changed(("model", str(tmp_path / "m")))
    go(moved, out)
    if name == "config.json":
        config = json.loads((tmp_path / "m" / name).read_text())
        (tmp_path / "m" / name).write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    else:
        flip(tmp_path / "m" / name)
    with pytest.raises(UserError, match=r"the recipe changed \(model\.\w+: changed\)"):
        go(moved, out)


def test_a_control_can_be_added_later(finished: Finished, tmp_path: Path) -> None:
    out = finished.copied(tmp_path / "run")
    before, models = entries(out), contents(out / "stages")
    go(finished.recipe, out, compare=["control"])
    after = entries(out)
    assert list(after) == [*ALL, "control/recover", "control/measure"]
    assert all(after[name] == before[name] for name in ALL)
    assert all(contents(out / "stages")[path] == data for path, data in models.items())
    assert after["control/recover"].outputs["tokens"] == 320 + 128 + 128
    summary = summarise(out)
    assert [row.role for row in summary.models] == ["original", *["stage"] * 3, "comparison"]
    assert "576 tokens" in summary.models[-1].note
    done = contents(out)
    go(finished.recipe, out)
    go(finished.recipe, out, compare=["control"])
    assert contents(out) == done
    with pytest.raises(UserError, match=r"invalidates width, vocabulary, con"):
        go(as_changed(finished, "a recovery"), out)
