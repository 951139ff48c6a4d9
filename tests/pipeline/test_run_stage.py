"""What a plan knows about each stage of a run and about its comparisons."""

from pathlib import Path
from typing import Any

import pytest
import transformers

from regrow.architectures.cut_config import cut_config
from regrow.architectures.flops import forward_flops
from regrow.common.errors import UserError
from regrow.common.progress import QUIET
from regrow.pipeline.recipe import Recipe
from regrow.pipeline.run_plan import RunOptions, RunPlan, plan_run
from regrow.pipeline.run_stage import data_seed
from regrow.training.cost import mean_sample
from regrow.training.lora import add_adapters
from tests.tiny import sentences, write_model, write_text

TRAINING = {"tokens": 64, "row_length": 32, "batch_tokens": 64}


def recipe(home: Path, *stages: dict[str, Any]) -> Recipe:
    texts = {"train": str(home / "train.jsonl"), "heldout": {"h": str(home / "heldout.jsonl")}}
    return Recipe.model_validate(
        {"name": "tiny", "model": str(home / "m"), "seed": 3, "data": texts, "stages": [*stages]}
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("stages")
    write_model(home / "m")
    write_text(home / "train.jsonl", sentences(60))
    write_text(home / "heldout.jsonl", sentences(4, seed=1))
    return home


@pytest.fixture(scope="module")
def plan(home: Path) -> RunPlan:
    taught = {**TRAINING, "distill": {"from": "previous"}}
    return plan_run(
        recipe(
            home,
            {"name": "depth", "cut": {"layers": 3}},
            {"name": "more", "recover": TRAINING},
            {"name": "width", "cut": {"ffn": 24}, "recover": taught},
        ),
        home / "run", RunOptions(compare=["control"]), QUIET,
    )  # fmt: skip


def test_a_stage_begins_with_the_model_of_the_one_before(plan: RunPlan) -> None:
    depth, more, width = (plan.stages[name].layouts for name in ("depth", "more", "width"))
    assert depth.before == plan.original.layout != depth.after
    assert more.before == more.after == depth.after == width.before != width.after
    assert (depth.teacher, more.teacher, width.teacher) == (None, None, more.after)


def test_a_comparison_that_nobody_asked_for_is_no_stage(plan: RunPlan) -> None:
    control, original = plan.stages["control"], plan.original.layout
    assert (control.layouts.before, control.layouts.after) == (original, original)
    assert control.layouts.teacher is None  # it is the original itself
    assert plan.comparisons() == [control]
    assert "at-once" not in plan.stages
    wanted = {step.stage for step in plan.steps.values() if plan.is_wanted(step)}
    assert "control" in wanted
    assert "at-once" in {step.stage for step in plan.steps.values()} - wanted


def test_a_comparison_that_is_asked_for_is_planned_as_a_stage(home: Path) -> None:
    cuts = [{"layers": 3}, {"ffn": 24, "vocab_size": 300}]
    taught = {**TRAINING, "distill": {"from": "previous"}}
    stages = [{"name": f"s{n}", "cut": c, "recover": taught} for n, c in enumerate(cuts)]
    found = plan_run(
        recipe(home, *stages), home / "run", RunOptions(compare=["control", "at-once"]), QUIET
    )
    at_once, last = found.stages["at-once"].layouts, found.stages["s1"].layouts.after
    assert at_once.cut is not None
    assert {*at_once.cut.scored} == {"ffn", "layer"}
    assert at_once.cut.is_refitted
    assert (at_once.before, at_once.after) == (found.original.layout, last)
    assert at_once.teacher == found.original.layout  # the model before it
    assert [stage.name for stage in found.comparisons()] == ["control", "at-once"]


def test_of_two_cuts_of_the_vocabulary_the_last_one_counts_for_a_comparison(home: Path) -> None:
    cuts = [{"layers": 3, "vocab": {"size": 300, "pad_to": 8}}, {"vocab_size": 290}]
    stages = [{"name": f"s{n}", "cut": c, "recover": TRAINING} for n, c in enumerate(cuts)]
    found = plan_run(
        recipe(home, *stages), home / "run", RunOptions(compare=["at-once"]), QUIET
    ).stages  # fmt: skip
    assert found["at-once"].layouts.after == found["s1"].layouts.after


def test_a_comparison_that_cannot_be_cut_is_refused_if_it_is_asked_for(home: Path) -> None:
    """`wanda` scores no layers, and the stage that drops some names them itself."""
    cuts = [{"drop_layers": "1", "by": "wanda"}, {"ffn": 24, "by": "wanda"}]
    stages = [{"name": f"s{n}", "cut": c, "recover": TRAINING} for n, c in enumerate(cuts)]
    plan_run(recipe(home, *stages), home / "run", RunOptions(), QUIET)
    with pytest.raises(UserError, match=r"^compare.at-once: wanda scores .*, not layer"):
        plan_run(recipe(home, *stages), home / "run", RunOptions(compare=["at-once"]), QUIET)


@pytest.mark.parametrize("targets", [None, ("q_proj", "down_proj")])
def test_lora_trains_the_parameters_of_its_adapters(
    home: Path, targets: tuple[str, ...] | None
) -> None:
    lora = {"rank": 3, "targets": targets}
    stage = {
        "name": "width",
        "cut": {"ffn": 24, "layers": 3},
        "recover": {**TRAINING, "lora": lora},
    }
    plan = plan_run(recipe(home, stage), home / "run", RunOptions(), QUIET)
    width = plan.stages["width"]
    config = cut_config(plan.original.layout, width.layouts.after.sizes, {"layer": range(3)})
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**config))
    assert width.recovery.lora is not None
    add_adapters(model, width.recovery.lora, seed=0)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    assert width.trained_parameters == trained


def test_a_teacher_costs_a_forward_pass(plan: RunPlan) -> None:
    width = plan.stages["width"]
    _, sample = mean_sample(width.recovery, width.layouts.after)
    student, teacher = (
        forward_flops(layout, sample).total / sample.text
        for layout in (width.layouts.after, width.layouts.before)
    )
    assert width.flops_per_token == pytest.approx(3 * student + teacher)


def test_each_stage_has_its_own_order_of_data(home: Path, plan: RunPlan) -> None:
    assert len({stage.seed for stage in plan.stages.values()}) == len(plan.stages)
    assert data_seed(recipe(home, {"name": "more", "recover": TRAINING}), "more") == 3
