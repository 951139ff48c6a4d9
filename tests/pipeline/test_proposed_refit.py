"""The refit that a plan proposes."""

from pathlib import Path
from typing import Any

import pytest

import regrow
from regrow.architectures import Blueprint
from regrow.architectures.flops import SampleShape, forward_flops
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.llama import LLAMA
from regrow.architectures.mixtral import MIXTRAL
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.numbers import rough_duration
from regrow.pipeline import proposed_training, training_time
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.plan_spec import PlanSpec
from regrow.pipeline.proposed_refit import ProposedRefit, propose_refit
from regrow.pipeline.recipe_file import load_recipe
from regrow.surgery.inspection import inspect_model
from regrow.surgery.plan import PlannedStage
from regrow.surgery.refitting.memory import bytes_a_token
from regrow.training.speed import Speed
from tests.tiny import sentences, tiny_layout, write_model, write_text


@pytest.mark.parametrize(
    ("blueprint", "sizes", "recovery", "given", "characters", "expected"),
    [
        (LLAMA, {"layer": 3}, 50_000, {}, None, ProposedRefit(16_384, 4)),
        (MIXTRAL, {"expert": 3}, 50_000, {}, None, ProposedRefit(16_384, 4)),
        (MIXTRAL, {"layer": 2}, 50_000, {}, None, ProposedRefit(16_384)),
        (LLAMA, {"layer": 3}, 670_000, {}, None, ProposedRefit(82_944, 4)),
        (LLAMA, {"layer": 3}, 10**9, {}, 10**9, ProposedRefit(131_072, 4)),
        (LLAMA, {"layer": 3}, 50_000, {"calibration_tokens": 20_000}, None,
         ProposedRefit(20_000, 4)),
        (LLAMA, {"layer": 3}, 50_000, {"calibration_tokens": 900}, None, ProposedRefit(16_384, 4)),
        (LLAMA, {"layer": 3}, 50_000, {"calibration_tokens": 900}, 65_535, ProposedRefit(900)),
        (LLAMA, {"layer": 3}, 670_000, {}, 65_535, ProposedRefit(16_384)),
        (LLAMA, {"layer": 3}, 670_000, {}, 65_536, ProposedRefit(16_384, 4)),
        (LLAMA, {"layer": 3}, 670_000, {}, 200_000, ProposedRefit(49_152, 4)),
        (LLAMA, {"vocab": 300}, 670_000, {}, None, ProposedRefit(16_384)),
        (LLAMA, {"vocab": 300, "ffn": 32}, 50_000, {}, None, ProposedRefit(16_384, 4)),
        (T5, {"encoder.layer": 3}, 670_000, {}, None, ProposedRefit(16_384)),
        (GEMMA2, {"layer": 3}, 670_000, {}, None, ProposedRefit(16_384)),
    ],
)  # fmt: skip
def test_layers_are_trained_alone_where_cuts_are_refitted_and_there_is_text(
    blueprint: Blueprint,
    sizes: dict[str, int],
    recovery: int,
    given: dict[str, Any],
    characters: int | None,
    expected: ProposedRefit,
) -> None:
    spec, stage = PlanSpec(params="50%", **given), PlannedStage("cut", sizes, 1_000)
    assert propose_refit(tiny_layout(blueprint), stage, recovery, spec, characters) == expected


@pytest.mark.parametrize("cut", ["layer", "hidden"])
def test_the_text_of_a_wide_model_needs_4_gib_or_is_as_short_as_by_default(cut: str) -> None:
    layout = tiny_layout(LLAMA).resized({"hidden": 8_192, "ffn": 28_672})
    stage = PlannedStage("cut", {cut: 3}, 1_000)
    found = propose_refit(layout, stage, 10**9, PlanSpec(params="50%"), None)
    assert found == ProposedRefit(16_384, 4)
    assert found.tokens * bytes_a_token(layout, stage.sizes) > 1 << 32
    layout = layout.resized({"hidden": 2_048, "ffn": 8_192})
    found = propose_refit(layout, stage, 10**9, PlanSpec(params="50%"), None)
    held = found.tokens * bytes_a_token(layout, stage.sizes)
    assert (1 << 32) - 1_024 * bytes_a_token(layout, stage.sizes) < held <= 1 << 32


def test_the_recipe_has_the_passes_and_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_time, "_LEAST_FLOPS", 0.0)
    monkeypatch.setattr(training_time, "measure_speed", lambda *_, **__: Speed(1e6, 1e6))
    model = write_model(tmp_path / "m")
    plan = regrow.plan(model, params="60%")
    (tmp_path / "r.yaml").write_text(plan.recipe)
    (cut,) = (stage.cut for stage in load_recipe(tmp_path / "r.yaml").stages)
    assert cut is not None
    assert (cut.calibration_tokens, cut.refit_passes) == (16_384, 4)
    layout = ModelDirectory(model).layout.resized(plan.stages[0].sizes)
    forward = forward_flops(layout, SampleShape(512, decoder=512))
    alone = 1.25 * 3 * (forward.total - forward.head) / 1e6 * 4 * 16_384 / 512
    (note,) = (each for each in plan.notes if each.startswith("recovery: "))
    assert note.endswith(f"; about {rough_duration(alone)} in which cuts train single layers")
    assert "the original first writes 12.0K tokens; this is not in the times above" in plan.notes


def test_a_proposed_recipe_with_passes_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proposed_training, "_LEAST_TOKENS", 2_400)
    model = write_model(tmp_path / "m")
    write_text(tmp_path / "train.jsonl", sentences(200))
    write_text(tmp_path / "heldout.jsonl", sentences(3, seed=1))
    plan = regrow.plan(model, params="85%")
    (tmp_path / "r.yaml").write_text(plan.recipe)
    result = regrow.run(tmp_path / "r.yaml", tmp_path / "out")
    assert inspect_model(ModelDirectory(result.model)).parameters == plan.parameters
    carved = read_entries(tmp_path / "out/ledger.jsonl")["cut/carve"]
    assert carved.inputs["cut"]["refit_passes"] == 4
    assert any(each["trained"] for each in carved.outputs["refitted"])
