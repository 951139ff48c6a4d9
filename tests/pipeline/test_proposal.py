"""What inspect and plan say of a model is what prune then does to it."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

import regrow
from regrow.architectures import BLUEPRINTS, Blueprint, Layout
from regrow.architectures.assembled import class_shapes
from regrow.architectures.cut_config import cut_config
from regrow.architectures.llama import LLAMA
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.checkpoint.meta_check import find_problem
from regrow.checkpoint.model_directory import ModelDirectory
from regrow.common.errors import UserError
from regrow.common.progress import Progress
from regrow.models.networks import model_class
from regrow.pipeline import proposed_training
from regrow.pipeline.ledger import read_entries
from regrow.pipeline.plan_spec import PlanSpec
from regrow.pipeline.proposal import _cut, propose
from regrow.pipeline.recipe_file import load_recipe
from regrow.surgery.budget import parameter_budget
from regrow.surgery.cut_spec import CutSpec
from regrow.surgery.fixed_costs import plan_sizes
from regrow.surgery.inspection import inspect_model
from regrow.surgery.plan import PlannedStage, plan_stages
from regrow.surgery.prune import prune_checkpoint
from regrow.surgery.search.measure import Measurement
from regrow.surgery.search.search import SearchRequest
from regrow.surgery.size_options import sizes_from_options
from regrow.vocabulary.vocabulary_spec import VocabularySpec
from tests.cuts.random_cuts import TINY, TINY_IDS
from tests.surgery.search.test_search import Fake
from tests.tiny import sentences, tiny_layout, tiny_shapes, write_model, write_text, write_tiny

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]
all_tiny = pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)


def resized_config(layout: Layout, sizes: dict[str, int]) -> dict[str, Any]:
    layers = {
        axis.name: list(range(sizes.get(axis.name, layout.sizes[axis.name])))
        for axis in layout.blueprint.axes
        if axis.kind == "layer"
    }
    return dict(cut_config(layout, sizes, layers))


def counted(layout: Layout, sizes: dict[str, int]) -> int:
    """Parameters of the library's own class at these sizes."""
    config = resized_config(layout, sizes)
    shapes = tiny_shapes(layout.blueprint, config)
    parameters = shapes.keys() - set(layout.blueprint.buffers)
    return sum(torch.Size(shapes[name]).numel() for name in parameters)


# Inspect


@all_tiny
def test_inspect_counts_what_is_there(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    directory = write_tiny(blueprint, tmp_path / "m", number)
    found = inspect_model(ModelDirectory(directory))
    tensors = load_file(directory / "model.safetensors")
    layout = tiny_layout(blueprint, number)
    assert found.parameters == counted(layout, {}) == sum(found.parts.values())
    assert found.weight_bytes == sum(t.nbytes for t in tensors.values())
    assert [axis.name for axis in found.axes] == list(blueprint.axis_names)
    assert found.model_type == blueprint.model_type


@all_tiny
def test_an_index_is_worth_what_it_says(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    layout = tiny_layout(blueprint, number)
    found = inspect_model(ModelDirectory(write_tiny(blueprint, tmp_path / "m", number)))
    for axis in found.axes:
        alone = [
            {axis.name: size}
            for size in range(1, axis.size)
            if layout.size_problem({axis.name: size}) is None
        ]
        for sizes in alone[:1] + alone[-1:]:
            dropped = axis.size - sizes[axis.name]
            fewer = found.parameters - counted(layout, sizes)
            assert fewer == dropped * axis.parameters_per_index, axis.name
        assert axis.parameters == axis.size * axis.parameters_per_index
        shared = len(layout.axes_of_field(axis.name)) > 1
        if (match := re.fullmatch(r"multiples of (\d+)", axis.sizes)) and not shared:
            multiples = range(int(match[1]), axis.size, int(match[1]))
            assert [sizes[axis.name] for sizes in alone] == list(multiples)
        elif (match := re.fullmatch(r"(\d+) or more", axis.sizes)) and not shared:
            assert [sizes[axis.name] for sizes in alone] == list(range(int(match[1]), axis.size))
        elif axis.sizes == "any" and not shared:
            assert len(alone) == axis.size - 1
        elif axis.sizes.startswith(("with", "not alone")):
            assert alone == []


# Plan


@all_tiny
def test_a_plan_is_what_prune_then_gives(tmp_path: Path, blueprint: Blueprint, number: int) -> None:
    directory = write_tiny(blueprint, tmp_path / "m", number)
    whole = inspect_model(ModelDirectory(directory)).parameters
    plan = propose(ModelDirectory(directory), PlanSpec(params=int(whole * 0.6)), str(directory))
    assert plan.parameters <= whole * 0.6 < plan.parameters_before == whole
    path = tmp_path / "plan.yaml"
    path.write_text(plan.recipe, encoding="utf-8")
    recipe = load_recipe(path)
    assert Path(recipe.model) == directory
    assert len(recipe.stages) == len(plan.stages)
    for stage, planned in zip(recipe.stages, plan.stages, strict=True):
        out = tmp_path / stage.name
        assert stage.cut is not None
        spec = CutSpec(**stage.cut.options, by="random")
        result = prune_checkpoint(ModelDirectory(directory), out, spec)
        assert result.parameters == planned.parameters
        assert {k: v for k, v in result.cut.sizes.items() if k in planned.sizes} == {
            name: size for name, size in planned.sizes.items() if size < result.sizes_before[name]
        }
        assert not result.cut.is_identity
        model = model_class(blueprint.architectures[0]).from_pretrained(out)
        assert sum(p.numel() for p in model.parameters()) == planned.parameters
        directory = out


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(LAYOUTS), st.floats(0.3, 0.99))
def test_any_budget_is_met_or_refused(layout: Layout, share: float) -> None:
    whole = layout.parameters()
    budget = int(whole * share)
    try:
        sizes = plan_sizes(layout, parameter_budget(layout, budget))
    except UserError as error:
        refusal = str(error)
        sizes = {}
    if not sizes:
        assert "too few for this model; the least that keeps a share of every axis" in refusal
        least = int(re.findall(r"[\d,]+$", refusal)[0].replace(",", ""))
        assert budget < least
        assert layout.parameters(plan_sizes(layout, parameter_budget(layout, least))) == least
        return
    stages = plan_stages(layout, sizes)
    assert stages[-1].parameters == layout.parameters(sizes) <= budget
    before: dict[str, int] = {}
    for stage in stages:
        after = before | dict(stage.sizes)
        assert after != before
        assert all(size <= before.get(n, layout.sizes[n]) for n, size in after.items())
        assert layout.parameters(after) == stage.parameters
        layout.check_sizes(after)
        shapes = class_shapes(
            layout.blueprint, tiny_shapes(layout.blueprint, resized_config(layout, after))
        )
        assert (
            find_problem(resized_config(layout, after), layout.blueprint.architectures[0], shapes)
            is None
        )
        assert sum(torch.Size(s).numel() for s in shapes.values()) >= stage.parameters
        before = after
    assert before == sizes
    assert len({stage.name for stage in stages}) == len(stages)


@pytest.mark.parametrize(("budget", "message"), [
    (10**9, "params 1,000,000,000: the model has 41,248 parameters; ask for fewer"),
    (41_248, "params 41,248: the model has 41,248 parameters; ask for fewer"),
    (1, "params 1: too few for this model; the least that keeps a share of every axis is "),
])  # fmt: skip
def test_a_budget_that_cannot_be(tmp_path: Path, budget: int, message: str) -> None:
    directory = write_model(tmp_path / "m")
    with pytest.raises(UserError) as error:
        propose(ModelDirectory(directory), PlanSpec(params=budget), "m")
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("sizes", [{"decoder.layer": 2}, {"encoder.layer": 2, "decoder.layer": 3}])
def test_the_cut_of_some_stacks_is_read_back(sizes: dict[str, int]) -> None:
    layout = tiny_layout(T5, 0)
    stage = PlannedStage("depth", sizes, layout.parameters(sizes))
    cut = yaml.safe_load("{" + ", ".join(f"{k}: {v}" for k, v in _cut(layout, stage).items()) + "}")
    assert sizes_from_options(layout, cut) == (sizes, {})


def test_a_large_vocabulary_is_planned_too() -> None:
    layout = dataclasses.replace(
        tiny_layout(LLAMA, 1), sizes={**tiny_layout(LLAMA, 1).sizes, "vocab": 49_152}
    )
    (stage,) = plan_stages(
        layout, plan_sizes(layout, parameter_budget(layout, layout.parameters() // 3))
    )
    assert stage.sizes["vocab"] % 1_024 == 0


def test_only_a_cut_without_a_refit_is_divided_into_stages() -> None:
    for blueprint in BLUEPRINTS:
        layout = tiny_layout(blueprint)
        sizes = plan_sizes(layout, parameter_budget(layout, round(0.6 * layout.parameters())))
        stages = plan_stages(layout, sizes)
        if blueprint.solvable:
            assert [(stage.name, stage.sizes) for stage in stages] == [("cut", sizes)]
        else:
            names = [stage.name.partition(" ")[0] for stage in stages]
            assert len(stages) > 1 or len(sizes) == 1
            assert names == sorted(names, key=["depth", "width", "vocabulary"].index)


def test_the_recipe_names_the_model_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_model(tmp_path / "m")
    monkeypatch.chdir(tmp_path)
    recipe = propose(ModelDirectory(directory), PlanSpec(params=30_000), "m").recipe
    assert f"model: {directory}\n" in recipe
    assert (
        "model: owner/name\n"
        in propose(ModelDirectory(directory), PlanSpec(params=30_000), "owner/name").recipe
    )
    odd = tmp_path / "it's: #5"
    directory.rename(odd)
    (tmp_path / "r.yaml").write_text(
        propose(ModelDirectory(odd), PlanSpec(params=30_000), str(odd)).recipe
    )
    assert load_recipe(tmp_path / "r.yaml").model == str(odd)


def test_a_recipe_that_was_measured_on_texts_runs_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(proposed_training, "_LEAST_TOKENS", 2_400)
    fake = Fake(ModelDirectory(write_model(tmp_path / "m")).layout, {"hidden": 9, "vocab": 9})
    monkeypatch.setattr(Measurement, "_cut", lambda *a, **k: fake.cut(*a, **k))
    monkeypatch.setattr(Measurement, "_bits_per_byte", lambda *a: fake.bits(*a))
    odd = f"my texts: #5 {'of the long winter ' * 5}".strip()
    for place in (odd, "recipes", "elsewhere"):
        (tmp_path / place).mkdir()
    write_text(tmp_path / odd / "a.jsonl", sentences(120))
    (tmp_path / "b.txt").write_text(" ".join(sentences(40, seed=1)))
    texts = [tmp_path / odd / "a.jsonl", tmp_path / "b.txt"]
    monkeypatch.chdir(tmp_path)
    plan = regrow.plan(
        "m", params="85%", text=[f"{odd}/a.jsonl", "b.txt"], calibration_tokens=256, candidates=1,
        seed=7,
    )  # fmt: skip
    path = tmp_path / "recipes/r.yaml"
    path.write_text(plan.recipe)
    recipe = load_recipe(path)
    assert (recipe.data.train_paths, recipe.data.heldout, recipe.seed) == (texts, {}, 7)
    assert [source.weight for source in recipe.data.sources] == [3, 1]
    assert recipe.data.written is not None
    assert recipe.data.written.tokens == 600
    monkeypatch.chdir(tmp_path / "elsewhere")
    result = regrow.run(path, "out")
    assert inspect_model(ModelDirectory(result.model)).parameters == plan.parameters
    carved = read_entries(Path("out/ledger.jsonl"))[f"{recipe.stages[0].name}/carve"]
    assert carved.inputs["cut"]["calibration_tokens"] == 256


def test_a_recipe_holds_defaults_and_placeholders_where_nothing_else_is_given(
    tmp_path: Path,
) -> None:
    directory = write_model(tmp_path / "m")
    recipe = propose(ModelDirectory(directory), PlanSpec(params=30_000), "m").recipe
    assert "        - train.jsonl\n" in recipe
    assert "    domain: heldout.jsonl " in recipe
    assert "calibration_tokens" not in recipe
    assert "seed" not in recipe


# What a user asks for

T5GEMMA_FOUR_HEADS = {
    f"decoder.{name}": 4 for name in ("head", "cross_head", "kv_head", "cross_kv_head")
}


@pytest.mark.parametrize(
    ("blueprint", "options", "sizes"),
    [
        (LLAMA, {"heads": 3}, {"head": 3}),
        (LLAMA, {"kv_heads": 2}, {"kv_head": 2, "head": 4}),
        (LLAMA, {"heads": 2, "kv_heads": 1}, {"head": 2, "kv_head": 1}),
        (T5, {"layers": {"encoder": 2}}, {"encoder.layer": 2}),
        (T5GEMMA, {"heads": {"decoder": 4}}, T5GEMMA_FOUR_HEADS),
    ],
)
def test_options_are_sizes_by_axis(
    blueprint: Blueprint, options: dict[str, Any], sizes: dict[str, int]
) -> None:
    assert sizes_from_options(tiny_layout(blueprint), options) == (sizes, {})


def test_heads_without_groups_take_their_key_value_heads_along() -> None:
    assert sizes_from_options(tiny_layout(LLAMA, 1), {"heads": 3})[0] == {"head": 3, "kv_head": 3}


@pytest.mark.parametrize(
    ("blueprint", "options", "message"),
    [
        (T5GEMMA, {"layers": 2},
         "layers 2: t5gemma has 2 stacks; give encoder=2 or decoder=2"),
        (LLAMA, {"layers": {"decoder": 2}},
         "layers decoder=2: llama has one size for the whole model; give 2 alone"),
        (T5GEMMA, {"layers": {"middle": 2}},
         "layers middle=2: t5gemma has no stack middle; it has encoder, decoder"),
        (LLAMA, {"layers": 9}, "layers: 9 is not between 1 and 4, what the model has"),
        (LLAMA, {"hidden": 23}, "hidden: the llama config class refuses 23 with 6 heads, not a "
         "multiple; 18 or 24 would be right"),
        (LLAMA, {"heads": 5}, "heads: 5 heads on 3 key-value heads cannot be cut from 6 on 3; keep "
         "a multiple of 3 heads, or whole groups of 2"),
        (LLAMA, {"drop_layers": "0-3"}, "drop_layers 0-3: no layer is left"),
        (LLAMA, {"drop_layers": "4"}, "drop_layers 4: '4' lies beyond 3 (layers 0 to 3)"),
        (LLAMA, {"drop_layers": "1,0-2"}, "drop_layers 1,0-2: a layer is named twice"),
        (LLAMA, {"drop_layers": "x"}, "drop_layers x: 'x' is not a number or a range such as "
         "12-15 (layers 0 to 3)"),
        (LLAMA, {"drop_layers": ""}, "drop_layers: names no layer; write such as 12-15,20"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_for(
    blueprint: Blueprint, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        sizes_from_options(tiny_layout(blueprint), options)
    assert str(error.value) == message


def test_layers_named_by_number() -> None:
    sizes, given = sizes_from_options(tiny_layout(LLAMA), {"drop_layers": "1,3"})
    assert sizes == {}
    assert given["layer"].tolist() == [0, 2]


def test_every_family_is_covered() -> None:
    assert {b.model_type for b, _ in TINY} == {b.model_type for b in BLUEPRINTS}


# What cannot be done is not planned


def test_a_tokenizer_that_cannot_be_pruned_keeps_its_vocabulary(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m", vocab_size=8192)
    budget = int(inspect_model(ModelDirectory(directory)).parameters * 0.95)
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    tokenizer["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": next(iter(vocab))}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))
    plan = propose(ModelDirectory(directory), PlanSpec(params=budget), "m")
    assert not any("vocab" in stage.sizes for stage in plan.stages)
    assert "the vocabulary stays whole: " in plan.notes[0]
    assert "WordLevel" in plan.notes[0]


def test_a_search_asks_for_no_vocabulary_that_is_too_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = write_model(tmp_path / "m", vocab_size=8192)
    asked: list[SearchRequest] = []

    def search(_: ModelDirectory, request: SearchRequest, __: Progress) -> Any:
        asked.append(request)
        raise KeyboardInterrupt

    monkeypatch.setattr("regrow.surgery.search.search.search_sizes", search)
    spec, text = PlanSpec(params="70%"), [tmp_path / "text.jsonl"]
    # The tokenizer has 320 tokens, so no size of 4,096 or more is one that it can have.
    with pytest.raises(KeyboardInterrupt):
        propose(ModelDirectory(directory), spec, "m", text=text)
    assert asked[0].least == {"vocab": 8_192}

    def too_small(_: Path, __: Layout, wanted: VocabularySpec) -> int:
        assert wanted.size is not None
        if wanted.size < 6_000:
            raise UserError("too small")
        return wanted.size

    monkeypatch.setattr("regrow.surgery.search.vocabulary_limit.check_vocabulary", too_small)
    with pytest.raises(KeyboardInterrupt):
        propose(ModelDirectory(directory), spec, "m", text=text)
    assert asked[1].least == {"vocab": 6_016}


def test_names_of_special_tokens_may_be_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where costs are measured, and in the recipe."""
    directory = write_model(tmp_path / "m")
    candidate = SimpleNamespace(sizes={"ffn": 24})
    asked: list[SearchRequest] = []

    def search(_: ModelDirectory, request: SearchRequest, __: Progress) -> Any:
        asked.append(request)
        return SimpleNamespace(candidates=[candidate], characters=1_000)

    monkeypatch.setattr("regrow.surgery.search.search.search_sizes", search)
    text = [write_text(tmp_path / "text.jsonl", sentences(9))]
    for meant in (False, True):
        spec = PlanSpec(params="70%", special_tokens=meant)
        recipe = yaml.safe_load(propose(ModelDirectory(directory), spec, "m", text=text).recipe)
        assert asked[-1].reading.special_tokens is meant
        assert recipe["data"].get("special_tokens", False) is meant


def test_an_encoder_decoder_is_planned_with_what_its_recovery_needs(tmp_path: Path) -> None:
    directory = write_tiny(T5, tmp_path / "m")
    plan = propose(ModelDirectory(directory), PlanSpec(params="70%"), "m")
    assert plan.recipe.count("recover: {tokens: ") == len(plan.stages)
    assert any("gives it the sentinels" in note for note in plan.notes)


def test_a_config_alone_is_planned_as_its_checkpoint(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "m")
    full = propose(ModelDirectory(directory), PlanSpec(params=30_000), "m")
    (directory / "model.safetensors").unlink()
    alone = propose(ModelDirectory(directory), PlanSpec(params=30_000), "m")
    assert (alone.stages, alone.recipe) == (full.stages, full.recipe)
    assert alone.notes == (
        "planned from the config alone: the tokenizer may need more tokens",
        *full.notes,
    )
