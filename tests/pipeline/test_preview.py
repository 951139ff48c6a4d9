"""What a preview says of a recipe is what its stages then give."""

from pathlib import Path

import numpy as np
import pytest

from regrow.architectures import Blueprint
from regrow.architectures.flops import SampleShape, forward_flops, training_flops
from regrow.architectures.llama import LLAMA
from regrow.architectures.schema import AXIS_KINDS
from regrow.architectures.t5 import T5
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.cli.preview_tables import _SIZES, cost_rows, size_rows, total_words
from regrow.common.errors import UserError
from regrow.corpus.windows import Windows
from regrow.objectives.rows.denoisers import SPAN_CORRUPTION, DenoisingTokens
from regrow.objectives.rows.span_corruption import CorruptedText
from regrow.pipeline.plan_spec import PlanSpec
from regrow.pipeline.preview import Preview, preview_recipe
from regrow.pipeline.proposal import propose
from regrow.pipeline.recipe_file import parse_recipe
from regrow.surgery.inspection import inspect_model
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.tiny import tiny_layout, write_tiny

HEAD = """
name: small
model: m
data: {train: nowhere.txt, heldout: {domain: nowhere.txt}}
stages:
"""


def previewed(stages: str, directory: Path) -> Preview:
    return preview_recipe(
        parse_recipe(HEAD + stages, directory / "r.yaml"), ModelDirectory(directory)
    )


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_a_plan_previewed_has_the_counts_of_the_plan(
    tmp_path: Path, blueprint: Blueprint, number: int
) -> None:
    directory = write_tiny(blueprint, tmp_path / "m", number)
    whole = inspect_model(ModelDirectory(directory))
    plan = propose(ModelDirectory(directory), PlanSpec(params="60%"), "m")
    found = preview_recipe(
        parse_recipe(plan.recipe, tmp_path / "r.yaml"), ModelDirectory(directory)
    )
    assert [stage.stored for stage in found.stages] == [s.parameters for s in plan.stages]
    assert found.original.parameters == whole.parameters_counted_once
    assert found.original.nbytes == whole.weight_bytes
    sizes: dict[str, int] = {}
    for stage, planned in zip(found.stages, plan.stages, strict=True):
        sizes |= planned.sizes
        assert {name: stage.sizes[name] for name in sizes} == sizes


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ("{tasks: [piqa, arc_easy]}", "piqa, arc_easy; of original, second"),
        (
            "{tasks: [piqa], limit: 1500, stages: true}",
            "piqa, at most 1,500 questions of each; of original, first, second",
        ),
        (None, ""),
    ],
)
def test_a_preview_says_what_is_evaluated(tmp_path: Path, evaluate: str | None, words: str) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m")
    stages = "- {name: first, cut: {layers: 2}}\n- {name: second, cut: {layers: 1}}\n"
    text = stages if evaluate is None else f"{stages}evaluate: {evaluate}\n"
    lines = [line for line in total_words(previewed(text, directory)) if "evaluation" in line]
    assert lines == ([f"evaluation: {words}"] if words else [])


def test_a_preview_refuses_languages_as_a_run_does(tmp_path: Path) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m")
    written = "{name: own, model: original, tokens: 600, languages: [xx]}"
    text = HEAD.replace("train: nowhere.txt", f"train: {written}")
    recipe = parse_recipe(text + "- {name: a, cut: {layers: 1}}\n", directory / "r.yaml")
    with pytest.raises(UserError, match=r"^data\.train: own\.languages: xx: no language"):
        preview_recipe(recipe, ModelDirectory(directory))


def test_a_teacher_costs_a_forward_pass_of_its_own(tmp_path: Path) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m")
    stages = (
        "  - {name: a, cut: {layers: 3}, recover: {tokens: 6400, row_length: 64}}\n"
        "  - {name: b, cut: {ffn: 10}, recover: {tokens: 1280, row_length: 64, distill: %s}}\n"
    )
    plain = previewed(stages.replace(", distill: %s", ""), directory).stages
    before = tiny_layout(LLAMA)
    teachers = {"original": before, "previous": before.resized({"layer": 3})}
    for name, teacher in teachers.items():
        found = previewed(stages % f"{{from: {name}}}", directory)
        training, untaught = found.stages[1].training, plain[1].training
        assert training is not None
        assert untaught is not None
        taught = forward_flops(teacher, SampleShape(64, decoder=64)).total * 1280 // 64
        assert training.taught == taught
        assert training.flops == untaught.flops + taught
        share = f"{taught / found.flops:.0%}"
        assert f"; {share} of them go through teachers" in next(iter(total_words(found)))


def test_a_recovery_costs_by_the_model_that_it_trains(tmp_path: Path) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m")
    found = previewed(
        "  - {name: a, cut: {layers: 3}, recover: {tokens: 6400, row_length: 64}}\n"
        "  - {name: b, cut: {ffn: 10}}\n"
        "  - {name: c, cut: {layers: 2}, recover: {tokens: 1280, row_length: 128}}\n",
        directory,
    )
    first, second, third = (stage.training for stage in found.stages)
    layout = tiny_layout(LLAMA)
    assert first is not None
    assert third is not None
    assert first.sample == SampleShape(text=64, decoder=64)
    assert first.flops == training_flops(layout.resized({"layer": 3}), SampleShape(64, 64), 6400)
    assert second is None
    small = layout.resized({"layer": 2, "ffn": 10})
    assert third.flops == training_flops(small, SampleShape(128, 128), 1280)
    assert found.flops == first.flops + third.flops
    assert first.reported is None
    titles = cost_rows(found)[0]
    assert titles == ("training", "objective", "tokens", "text", "positions", "FLOPs/1e8")
    assert cost_rows(found)[1][:5] == ("a", "causal", "6,400", "64", "64")
    told = list(total_words(found))
    assert told[0] == f"recovery: 7,680 tokens, {found.flops / 1e9:.2f}e9 FLOPs"
    last = found.stages[-1]
    assert told[1] == f"result: {last.parameters:,} parameters, {last.nbytes / 1e3:.1f} kB"


def test_key_value_heads_are_shown_where_they_differ(tmp_path: Path) -> None:
    grouped, plain = write_tiny(LLAMA, tmp_path / "g"), write_tiny(LLAMA, tmp_path / "p", 1)
    stage = "  - {name: a, cut: {layers: 2}}\n"
    assert "kv heads" in size_rows(previewed(stage, grouped))[0]
    assert "kv heads" not in size_rows(previewed(stage, plain))[0]
    # The head of the first is of its own, that of the second tied.
    assert "stored" in size_rows(previewed(stage, grouped))[0]
    assert "stored" not in size_rows(previewed(stage, plain))[0]
    assert cost_rows(previewed(stage, plain)) == ()


def test_both_stacks_are_shown(tmp_path: Path) -> None:
    directory = write_tiny(T5, tmp_path / "m")
    found = previewed("  - {name: a, cut: {layers: {encoder: 2}}}\n", directory)
    assert [row[1] for row in size_rows(found)] == ["layers", "3+4", "2+4"]


def test_an_encoder_decoder_computes_what_span_corruption_makes_of_a_row(tmp_path: Path) -> None:
    directory = write_tiny(T5, tmp_path / "m")
    found = previewed("  - {name: a, recover: {tokens: 5120, row_length: 512}}\n", directory)
    training = found.stages[0].training
    assert training is not None
    special_tokens = DenoisingTokens({}, sentinels=tuple(range(100)), eos=101, pad=102, start=103)
    windows = Windows(np.arange(200, 712, dtype=np.int32), np.zeros(1, dtype=np.int64), 512)
    rows = np.zeros(1, dtype=np.int64)
    batch = CorruptedText(windows, SPAN_CORRUPTION, special_tokens, 0).batch(rows, rows)
    assert (1, training.sample.encoder) == batch["input_ids"].shape
    assert (1, training.sample.decoder) == batch["labels"].shape
    assert training.flops == training_flops(tiny_layout(T5), training.sample, 5120)


def test_the_sample_is_that_of_the_objective(tmp_path: Path) -> None:
    directory = write_tiny(T5, tmp_path / "m")
    found = previewed(
        "  - {name: a, recover: {tokens: 5120, row_length: 512, objective: ul2}}\n"
        "  - {name: b, recover: {tokens: 5120, row_length: 1898, batch_tokens: 4096, "
        "objective: o-ul2}}\n",
        directory,
    )
    mixed, fixed = (stage.training for stage in found.stages)
    assert mixed is not None
    assert fixed is not None
    assert (mixed.objective, fixed.objective) == ("ul2", "o-ul2")
    # Noise of 77, 77, 128, 256, 256, 77 and 256 tokens; 26, 10, 1, 85, 32, 1 and 4 spans.
    assert mixed.sample == SampleShape(text=512, encoder=512 - 161 + 23 + 1, decoder=161 + 23 + 1)
    assert fixed.sample == SampleShape(text=1_858, encoder=952, decoder=951)


def test_a_decoder_computes_source_and_target_in_one_row(tmp_path: Path) -> None:
    directory = write_tiny(LLAMA, tmp_path / "m")
    stages = "  - {name: a, recover: {tokens: 5120, row_length: 512, objective: span-corruption}}\n"
    training = previewed(stages, directory).stages[0].training
    assert training is not None
    # 435 tokens that stay and 77 that go, with 26 sentinels each, and an end or a start.
    assert training.sample == SampleShape(text=512, decoder=435 + 26 + 77 + 26 + 1)


def test_an_objective_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    directory = write_tiny(T5, tmp_path / "m")
    with pytest.raises(UserError, match=r"stages: a: recover\.objective: causal is not for an enc"):
        previewed("  - {name: a, recover: {objective: causal}}\n", directory)


def test_every_kind_of_axis_has_a_name() -> None:
    assert _SIZES.keys() == {*AXIS_KINDS}
