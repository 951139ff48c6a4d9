"""A recovery that does not help leaves the weights from before."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest

from regrow.common.progress import Progress
from regrow.pipeline.summary import summarise
from tests.pipeline.kills import killed
from tests.pipeline.runs import (
    Finished,
    assert_same_result,
    contents,
    entries,
    go,
    recover,
    written,
)


@pytest.fixture(scope="module")
def unhelped(finished: Finished, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two recoveries that make the model worse, with and without a cut, and one that helps."""
    home = tmp_path_factory.mktemp("unhelped")
    far = {"learning_rate": 3.0, "save_every": 0}
    stages = [
        {"name": "depth", "cut": {"layers": 3, "calibration_tokens": 512},
         "recover": recover(320, **far)},
        {"name": "more", "recover": recover(128, **far)},
        {"name": "width", "cut": {"ffn": 24, "calibration_tokens": 512}, "recover": recover(128)},
    ]  # fmt: skip
    recipe = finished.changed(("stages", stages))
    said: list[str] = []
    result = go(recipe, home / "run", progress=Progress(say=said.append))
    return Finished(finished.home, recipe, home / "run", result, [], said)


def test_weights_from_before_are_kept_if_a_recovery_does_not_help(unhelped: Finished) -> None:
    done = entries(unhelped.out)
    assert [done[f"{name}/recover"].outputs["kept"] for name in ("depth", "more", "width")] == [
        "before", "before", "trained",
    ]  # fmt: skip
    carved = done["depth/carve"].outputs
    for name in ("depth", "more"):
        assert done[f"{name}/recover"].outputs["fingerprint"] == carved["fingerprint"]
        stage = unhelped.out / "stages" / name
        model, trained = contents(stage / "model"), contents(stage / "trained")
        assert model.keys() == trained.keys()
        assert [file for file in model if model[file] != trained[file]] == [
            "README.md", "model.safetensors", "regrow_history.json",
        ]  # fmt: skip
    assert done["width/recover"].outputs["fingerprint"] != carved["fingerprint"]
    assert not (unhelped.out / "stages/width/trained").exists()


def test_no_model_is_measured_as_worse_than_before_its_recovery(
    unhelped: Finished, finished: Finished
) -> None:
    def mean(entry: Any) -> float:
        losses = [float(loss["bits_per_byte"]) for loss in entry.outputs["heldout"].values()]
        return sum(losses) / len(losses)

    for run in (unhelped, finished):
        done = entries(run.out)
        for stage in summarise(run.out).stages:
            before = done.get(f"{stage.name}/measure-cut") or done["depth/measure"]
            assert mean(done[f"{stage.name}/measure"]) <= mean(before)
    done = entries(unhelped.out)
    assert done["more/measure"].outputs["heldout"] == done["depth/measure-cut"].outputs["heldout"]


def test_it_is_said_which_weights_are_kept(unhelped: Finished) -> None:
    said = "\n".join(unhelped.said)
    for name in ("depth", "more"):
        assert f"{name}: recovery made domain worse: " in said
        assert f"{name}: recovery did not help on average (" in said
        assert f"the trained weights are in {unhelped.out}/stages/{name}/trained" in said
    assert "width: recovery did not help" not in said
    page = (unhelped.out / "report.html").read_text(encoding="utf-8")
    assert page.count("not kept") == 2
    assert "the trained weights are in stages/more/trained" in page


@pytest.mark.parametrize(
    ("stage", "within"),
    [("depth", "keep_untrained"), ("depth", "save_trained"), ("depth", "facts"),
     ("more", "save_trained")],
)  # fmt: skip
def test_stopped_while_the_weights_from_before_are_kept_it_ends_in_the_same_bits(
    unhelped: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, within: str
) -> None:
    out = tmp_path / "run"
    lines_of = (unhelped.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    out.mkdir()
    before = list(entries(unhelped.out)).index(f"{stage}/recover")
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:before]))
    if stage == "more":
        shutil.copytree(unhelped.out / "stages/depth", out / "stages/depth")

    places = {
        "keep_untrained": "regrow.pipeline.run.keep_untrained",
        # As `keep_untrained` finds it; `regrow.training.trainee` writes the trained weights.
        "save_trained": "regrow.checkpoint.trained_weights.save_trained",
        "facts": "regrow.checkpoint.model_directory.ModelDirectory.facts",
    }

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(places[within], stop)
        if within == "facts":  # recording the recipe needs none
            patch.setattr("regrow.pipeline.run.record_inputs", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            go(unhelped.recipe, out)
    assert f"{stage}/recover" not in entries(out)
    assert any((out / f"stages/{stage}/training").iterdir())
    go(unhelped.recipe, out)
    assert_same_result(out, unhelped.out)


def test_killed_while_the_weights_from_before_are_kept_it_ends_in_the_same_bits(
    unhelped: Finished, forks: Any, tmp_path: Path
) -> None:
    recipe, out = written(unhelped, tmp_path), tmp_path / "run"
    assert killed(forks, recipe, out, (out / "stages/depth/trained").exists)
    go(unhelped.recipe, out)
    assert_same_result(out, unhelped.out)


def test_a_recovery_that_helps_after_all_leaves_nothing_of_the_other(
    unhelped: Finished, tmp_path: Path
) -> None:
    out, stages = unhelped.copied(tmp_path / "run"), copy.deepcopy(unhelped.recipe["stages"])
    stages[0]["recover"]["learning_rate"] = 0.01
    go({**unhelped.recipe, "stages": stages}, out, redo=True)
    assert entries(out)["depth/recover"].outputs["kept"] == "trained"
    assert not (out / "stages/depth/trained").exists()


def test_other_heldout_texts_change_no_weights_that_were_kept(
    unhelped: Finished, tmp_path: Path
) -> None:
    out = unhelped.copied(tmp_path / "run")
    text = str(unhelped.home / "more.jsonl")
    go(unhelped.changed(("data.heldout.other", text)), out, redo=True)
    before, after = entries(unhelped.out), entries(out)
    assert after["more/recover"] == before["more/recover"]
    other = {name: after[name].outputs["heldout"]["other"] for name in after if "/measure" in name}
    assert other["more/measure"] == other["depth/measure"] == other["depth/measure-cut"]
    assert other["more/measure"] != before["more/measure"].outputs["heldout"]["other"]
    assert other["width/measure"] != other["width/measure-cut"]
    outcome = summarise(out).stages[1].outcome
    assert outcome is not None
    assert list(outcome.texts) == ["domain"]
