"""Runs of encoder-decoders, and their comparisons."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.pipeline.summary import summarise
from tests.pipeline.kills import killed, saved_after
from tests.pipeline.runs import SAME, Finished, entries, go, recover, written


def test_an_encoder_decoder_is_cut_and_recovered(filled: Finished) -> None:
    done = entries(filled.out)
    assert list(done)[5:] == [
        "depth/carve", "depth/measure-cut", "depth/recover", "depth/measure", "depth/answers",
        "width/carve", "width/measure-cut", "width/recover", "width/measure", "width/answers",
        "longer/recover", "longer/measure", "longer/answers",
        "control/recover", "control/measure",
        "at-once/carve", "at-once/measure-cut", "at-once/recover", "at-once/measure", "speed",
    ]  # fmt: skip
    for name in ("depth/measure", "width/measure", "longer/measure", "at-once/measure"):
        domain = done[name].outputs["heldout"]["domain"]
        assert 0 < domain["bits_per_byte"] < 20
        assert 0 < domain["loss_per_token"] < 20
    config = json.loads((filled.result.model / "config.json").read_text())
    assert (config["num_layers"], config["num_decoder_layers"]) == (2, 3)
    assert config["auto_map"]["AutoConfig"] == "configuration_openba.OpenBAConfig"
    assert regrow.verify(filled.result.model).ok
    assert regrow.generate(filled.result.model, "The river", max_new_tokens=2) is not None


def test_the_comparisons_have_the_same_sizes_and_tokens(filled: Finished) -> None:
    summary = summarise(filled.out)
    rows = {row.name: row for row in summary.models}
    assert [row.role for row in summary.models] == ["original", *["stage"] * 3, *["comparison"] * 2]
    assert rows["at-once"].parameters == rows["longer"].parameters
    assert rows["control"].parameters == rows["original"].parameters
    assert rows["at-once"].after_cut.keys() == rows["at-once"].after_recovery.keys() == {"domain"}
    done = entries(filled.out)
    budget = sum(done[f"{name}/recover"].outputs["tokens"] for name in ("depth", "width", "longer"))
    for name in ("control", "at-once"):
        assert done[f"{name}/recover"].outputs["tokens"] == pytest.approx(budget, abs=128)
    stages = {stage.name: stage for stage in summary.stages}
    assert list(stages) == ["depth", "width", "longer"]
    assert stages["longer"].cut == ""
    assert stages["longer"].done
    page = (filled.out / "report.html").read_text(encoding="utf-8")
    assert "all cuts made in one" in page
    assert "what is taken out of the text" in page


@pytest.mark.parametrize("within", ["longer", "control", "at-once"])
def test_killed_within_a_comparison_it_ends_in_the_same_bits(
    filled: Finished, forks: Any, tmp_path: Path, within: str
) -> None:
    """From what stood before that training, killed after its first step."""
    out, whole = tmp_path / "run", list(entries(filled.out))
    lines_of = (filled.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    before = whole.index(f"{within}/recover")
    out.mkdir()
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:before]))
    for name in {step.partition("/")[0] for step in whole[:before]} - {within, *SAME}:
        shutil.copytree(filled.out / "stages" / name, out / "stages" / name)
    recipe = filled.changed(("stages.longer.recover.save_every", 0))
    path = written(filled, tmp_path, recipe)
    training = out / "stages" / within / "training"
    compare = ("control", "at-once") if within != "longer" else ()
    assert killed(forks, path, out, saved_after(training, 0), compare)
    assert f"{within}/recover" not in entries(out)
    if within == "control":  # a run that does not compare leaves it there
        regrow.run(path, out)
        assert any(training.glob("step-*"))
    regrow.run(path, out, compare=compare)
    result = f"stages/{within}/model/model.safetensors"
    assert (out / result).read_bytes() == (filled.out / result).read_bytes()


def test_comparisons_that_a_change_invalidates_are_named(filled: Finished, tmp_path: Path) -> None:
    out = filled.copied(tmp_path / "run")
    longer = filled.changed(("stages.longer.recover.learning_rate", 0.02))
    with pytest.raises(UserError, match=r"longer, control \(dropped\), at-once \(dro"):
        go(longer, out)
    with pytest.raises(UserError, match=r"longer, control \(dropped\), at-once;"):
        go(longer, out, compare=["at-once"])
    said: list[str] = []
    go(longer, out, compare=["at-once"], redo=True, progress=Progress(say=said.append))
    assert any("control (dropped)" in line for line in said)
    assert "at-once/measure" in entries(out)
    assert "control/recover" not in entries(out)


def test_a_half_done_training_is_not_lost_when_its_stage_is_renamed(
    filled: Finished, forks: Any, tmp_path: Path
) -> None:
    lines_of = (filled.out / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    out = tmp_path / "run"
    for name in ("depth", "width"):
        shutil.copytree(filled.out / "stages" / name, out / "stages" / name)
    (out / "ledger.jsonl").write_bytes(b"".join(lines_of[:15]))
    recipe = filled.changed(("stages.longer.recover.save_every", 0))
    training = out / "stages/longer/training"
    assert killed(forks, written(filled, tmp_path, recipe), out, saved_after(training, 0))
    recipe["stages"][2]["name"] = "long"
    with pytest.raises(UserError, match=r"longer is no longer there.*invalidates longer"):
        go(recipe, out)
    assert any(training.iterdir())
    go(recipe, out, redo=True)
    assert not training.exists()


@pytest.mark.parametrize(
    ("stages", "compare", "message"),
    [
        ([{"name": "a", "cut": {"layers": 3}, "recover": recover(64)}], "at-once",
         "compare.at-once: the recipe makes fewer than two cuts"),
        ([{"name": "a", "cut": {"layers": 4}, "recover": recover(64)},
          {"name": "b", "cut": {"ffn": 48}}], "at-once", "stages: a: cut.layers 4: nothing is cut"),
        ([{"name": "a", "cut": {"layers": 3}}], "control", "compare.control: the recipe recov"),
    ],
)  # fmt: skip
def test_a_comparison_with_nothing_to_compare_is_refused(
    finished: Finished, tmp_path: Path, stages: list[Any], compare: str, message: str
) -> None:
    recipe = finished.changed(("stages", stages), ("prompts", []))
    with pytest.raises(UserError, match=message):
        go(recipe, tmp_path / "new", compare=[compare])
    assert not (tmp_path / "new").exists()


def test_too_few_sentinels_are_said_before_work(filled: Finished, tmp_path: Path) -> None:
    recipe = filled.changed(
        ("stages.longer.recover", recover(400, row_length=400, batch_tokens=400))
    )
    with pytest.raises(
        UserError, match=r"stages: longer: recover: 400 tokens .* 8 sent.* at most \d+ tokens"
    ):
        go(recipe, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_original_as_published_is_trained_with_its_code(filled: Finished) -> None:
    control = filled.out / "stages/control/model"
    assert (control / "modeling_openba.py").is_file()
    assert json.loads((control / "config.json").read_text())["auto_map"]
