"""A blueprint bound to a checkpoint: what is refused, and how many parameters there are."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from regrow.architectures import BLUEPRINTS, Blueprint, Layout, bind
from regrow.architectures.bart import BART, MBART
from regrow.architectures.cut_config import cut_config
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.phi3 import PHI3
from regrow.architectures.schema import Divides
from regrow.architectures.t5 import MT5, T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.architectures.umt5 import UMT5
from regrow.common.errors import UserError
from regrow.models.networks import config_class, model_class
from tests.cuts.random_cuts import TINY, TINY_IDS, accepted_sizes
from tests.tiny import tiny_layout, tiny_shapes, write_tiny

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]


def build(blueprint: Blueprint, config: Mapping[str, Any]) -> Any:
    """The library's own model of a config, without memory for its weights."""
    values = {key: value for key, value in config.items() if key != "model_type"}
    built = config_class(config["model_type"]).from_dict(values)
    with torch.device("meta"):
        return model_class(blueprint.architectures[0])(built)


def count(model: Any) -> int:
    """Parameters as torch counts them; a shared one comes once."""
    return sum(parameter.numel() for parameter in model.parameters())


# Parameters


@pytest.mark.parametrize(("blueprint", "number"), TINY, ids=TINY_IDS)
def test_parameters_are_those_of_the_class(blueprint: Blueprint, number: int) -> None:
    layout = tiny_layout(blueprint, number)
    assert layout.parameters() == count(build(blueprint, layout.config)) + _own_head(layout)
    assert layout.tied is (blueprint.tiny[number].get("tie_word_embeddings") is not False)


def _own_head(layout: Layout) -> int:
    """T5 and its kin built from a config always share their head; loaded from a file that has one
    they do not (`test_head_of_a_file_stays_its_own`)."""
    if layout.tied or not layout.blueprint.head.ties_when_absent:
        return 0
    return layout.sizes["vocab"] * layout.sizes["hidden"]


@pytest.mark.parametrize("blueprint", [T5, MT5, UMT5], ids=lambda b: b.model_type)
def test_head_of_a_file_stays_its_own(blueprint: Blueprint, tmp_path: Path) -> None:
    source = write_tiny(blueprint, tmp_path / "in")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(source)
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert tiny_layout(blueprint).parameters() == count(model)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_parameters_at_new_sizes_are_those_of_the_class(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    sizes = data.draw(accepted_sizes(layout))
    assert layout.size_problem(sizes) is None
    layers = {a.name: range(sizes[a.name]) for a in layout.blueprint.axes if a.kind == "layer"}
    config = cut_config(layout, sizes, layers)
    own_head = _own_head(replace(layout, sizes={**layout.sizes, **sizes}))
    assert layout.parameters(sizes) == count(build(layout.blueprint, config)) + own_head
    assert sum(layout.parameters_by_part(sizes).values()) == layout.parameters(sizes)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_tensors_at_new_sizes_are_those_of_the_class(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    sizes = data.draw(accepted_sizes(layout))
    layers = {a.name: range(sizes[a.name]) for a in layout.blueprint.axes if a.kind == "layer"}
    shapes = tiny_shapes(layout.blueprint, dict(cut_config(layout, sizes, layers)))
    resized = layout.resized(sizes)
    assert {name: each.shape for name, each in resized.tensors.items()} == shapes
    assert resized.parameters() == layout.parameters(sizes)


def test_parts_of_a_model_counted_by_hand() -> None:
    """Llama tiny 0: vocab 61, hidden 24, ffn 20, 6 heads on 3 of 10 channels, 4 layers, biases."""
    assert tiny_layout(LLAMA).parameters_by_part() == {
        "embedding": 61 * 24,
        "attention": 4 * (2 * 24 * 60 + 2 * 24 * 30 + 60 + 2 * 30),
        "ffn": 4 * (3 * 24 * 20 + 2 * 20),
        "norms": 4 * (2 * 24 + 24 + 24) + 24,  # and the biases of o_proj and down_proj
        "head": 61 * 24,
    }


def test_parts_of_two_stacks_counted_by_hand() -> None:
    """T5 tiny 1: one embedding for both stacks and the head, position bias with the attention."""
    parts = tiny_layout(T5, 1).parameters_by_part()
    assert parts == {
        "embedding": 61 * 24,
        "attention": 3 * 3 * (4 * 24 * 40) + 2 * (8 * 4),
        "ffn": 2 * 3 * (2 * 24 * 20),
        "norms": 3 * 2 * 24 + 3 * 3 * 24 + 2 * 24,
    }


def test_learned_positions_are_embeddings() -> None:
    """BART tiny 0: vocab 61, 32 positions and two more in each stack, hidden 24."""
    assert tiny_layout(BART).parameters_by_part()["embedding"] == 61 * 24 + 2 * 34 * 24


@pytest.mark.parametrize(
    "blueprint", [LLAMA, GEMMA2, GPT_NEOX, T5GEMMA], ids=lambda b: b.model_type
)
def test_shared_embedding_counts_once_under_two_names(blueprint: Blueprint) -> None:
    number = next(n for n, tiny in enumerate(blueprint.tiny) if tiny["tie_word_embeddings"])
    shapes = tiny_shapes(blueprint, blueprint.tiny[number])
    head = {blueprint.head.weight: shapes[blueprint.head.embedding]}
    alone = bind(blueprint, blueprint.tiny[number], shapes)
    twice = bind(blueprint, blueprint.tiny[number], {**head, **shapes}, tied=True)
    assert twice.parameters() == alone.parameters()
    assert twice.parameters_by_part() == alone.parameters_by_part()
    assert len(twice.tensors) == len(alone.tensors) + 1
    apart = bind(blueprint, blueprint.tiny[number], {**head, **shapes}, tied=False)
    assert apart.parameters() - alone.parameters() == torch.Size(next(iter(head.values()))).numel()


@pytest.mark.parametrize("blueprint", [T5, UMT5, BART, MBART], ids=lambda b: b.model_type)
def test_names_of_the_shared_embedding_count_once(blueprint: Blueprint) -> None:
    tiny, head = blueprint.tiny[1], blueprint.head
    shapes = tiny_shapes(blueprint, tiny)
    all_names = {**dict.fromkeys((*head.aliases, head.weight), shapes[head.embedding]), **shapes}
    layout = bind(blueprint, tiny, all_names, tied=True)
    assert layout.parameters() == count(build(blueprint, tiny))


def test_where_nobody_looked_the_flag_says_whether_the_head_is_tied() -> None:
    for flag, tied in ((True, True), (False, False), (None, False)):
        config = {**LLAMA.tiny[0], "tie_word_embeddings": flag}
        assert bind(LLAMA, config, tiny_shapes(LLAMA, LLAMA.tiny[0])).tied is tied


# Binding


def _without_lm_head(shapes: dict[str, tuple[int, ...]]) -> None:
    del shapes["lm_head.weight"]


def _biased_in_one_layer(shapes: dict[str, tuple[int, ...]]) -> None:
    for layer in (0, 2, 3):
        del shapes[f"model.layers.{layer}.self_attn.q_proj.bias"]


REFUSED: dict[
    str, tuple[dict[str, Any], Callable[[dict[str, tuple[int, ...]]], Any], str]
] = {
    "unlabelled": (
        {}, lambda s: s.update({"model.layers.0.self_attn.sinks": (6,)}),
        r"model\.layers\.0\.self_attn\.sinks: no tensor of this name in the llama blueprint",
    ),
    "a number that no index has": (
        {}, lambda s: s.update({"model.layers.01.input_layernorm.weight": (24,)}),
        r"model\.layers\.01\.input_layernorm\.weight: no tensor of this name",
    ),
    "shape": (
        {}, lambda s: s.update({"model.layers.1.mlp.up_proj.weight": (20, 25)}),
        r"up_proj\.weight: shape \[20, 25\], but config.json gives \[20, 24\] \(ffn, hidden\)",
    ),
    "dimensions": (
        {}, lambda s: s.update({"model.norm.weight": (24, 1)}),
        r"model\.norm\.weight: shape \[24, 1\], but config.json gives \[24\]",
    ),
    "config of another size": (
        {"intermediate_size": 22}, lambda s: None,
        r"gate_proj\.weight: shape \[20, 24\], but config.json gives \[22, 24\]",
    ),
    "missing": (
        {}, lambda s: s.pop("model.norm.weight"),
        r"model\.norm\.weight: missing, though llama with these sizes has it$",
    ),
    "missing in one layer": (
        {}, lambda s: s.pop("model.layers.2.mlp.up_proj.weight"),
        r"model\.layers\.2\.mlp\.up_proj\.weight: missing",
    ),
    "more layers in the config": (
        {"num_hidden_layers": 6}, lambda s: None,
        r"model\.layers\.4\.input_layernorm\.weight: missing, .* \(and 1 more\)",
    ),
    "layers without end in the config": (
        {"num_hidden_layers": 10**15}, lambda s: None,
        r"model\.layers\.4\.input_layernorm\.weight: missing, .* \(and 999,999,999,999,995 more\)",
    ),
    "fewer layers in the config": (
        {"num_hidden_layers": 3}, lambda s: None,
        r"model\.layers\.3\..*: config.json says 3 layers \(num_hidden_layers\)",
    ),
    "a layer without end in the file": (
        {}, lambda s: s.update({f"model.layers.{'4' * 5_000}.mlp.up_proj.weight": (1,)}),
        "unknown",
    ),
    "optional in one layer": (
        {}, _biased_in_one_layer,
        r"model\.layers\.0\.self_attn\.q_proj\.bias: missing, .* \(and 2 more\)",
    ),
    "untied without a head": (
        {}, _without_lm_head,
        r"lm_head\.weight: missing, though config.json says that the head is not tied",
    ),
    "no field": (
        {"hidden_size": None}, lambda s: None,
        "config.json: hidden_size: missing, it gives the size of hidden",
    ),
    "text": ({"vocab_size": "61"}, lambda s: None, "config.json: vocab_size: '61' is not a size"),
    "truth": ({"vocab_size": True}, lambda s: None, "config.json: vocab_size: True is not a size"),
    "zero": ({"vocab_size": 0}, lambda s: None, "config.json: vocab_size: 0 is not a size"),
    "fraction": ({"vocab_size": 61.0}, lambda s: None, "vocab_size: 61.0 is not a size"),
    "list": ({"head_dim": [10]}, lambda s: None, r"head_dim: \[10\] is not a size"),
    "heads in no whole groups": (
        {"num_key_value_heads": 4}, lambda s: None,
        r"6 heads \(head\) are not a multiple of 4 key-value heads \(kv_head\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "edit", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refuses(
    changes: dict[str, Any],
    edit: Callable[[dict[str, tuple[int, ...]]], Any],
    message: str,
) -> None:
    shapes = tiny_shapes(LLAMA, LLAMA.tiny[0])
    edit(shapes)
    with pytest.raises(UserError, match=message) as error:
        bind(LLAMA, {**LLAMA.tiny[0], **changes}, shapes)
    assert "\n" not in str(error.value)


def test_stored_tensors_all_have_a_label() -> None:
    for layout in LAYOUTS:
        for tensor in layout.tensors.values():
            assert tensor.shape == tensor.dims.shape(layout.sizes)
            if tensor.layer is not None:
                expert = tensor.expert[1] if tensor.expert else 0
                assert tensor.renamed(tensor.layer[1], expert) == tensor.name


@pytest.mark.parametrize("blueprint", BLUEPRINTS, ids=lambda b: b.model_type)
def test_no_tensor_can_be_left_out(blueprint: Blueprint) -> None:
    """Each missing tensor is noticed, unless it is the only one of an optional pattern."""
    shapes = tiny_shapes(blueprint, blueprint.tiny[0])
    layout = bind(blueprint, blueprint.tiny[0], shapes)
    for name, tensor in layout.tensors.items():
        optional = tensor.pattern + "?" in blueprint.tensors
        alone = sum(other.pattern == tensor.pattern for other in layout.tensors.values()) == 1
        fewer = {other: shape for other, shape in shapes.items() if other != name}
        if optional and alone and name != blueprint.head.weight:
            assert name not in bind(blueprint, blueprint.tiny[0], fewer).tensors
            continue
        if optional and alone and blueprint.head.ties_when_absent:
            assert bind(blueprint, blueprint.tiny[0], fewer).tied
            continue
        with pytest.raises(UserError, match="missing"):
            bind(blueprint, blueprint.tiny[0], fewer)


def test_tensors_that_the_class_ignores_are_named() -> None:
    shapes = tiny_shapes(GPT_NEOX, GPT_NEOX.tiny[0])
    masks = {"gpt_neox.layers.0.attention.bias": (1, 1, 8, 8)}
    layout = bind(GPT_NEOX, GPT_NEOX.tiny[0], {**shapes, **masks})
    assert layout.ignored == tuple(masks)
    assert not layout.tensors.keys() & masks.keys()


def test_files_keep_names_that_the_library_maps() -> None:
    shapes = tiny_shapes(GPT_NEOX, GPT_NEOX.tiny[0])
    shapes["embed_out.weight"] = shapes.pop("lm_head.weight")
    layout = bind(GPT_NEOX, GPT_NEOX.tiny[0], shapes)
    assert layout.tensors["embed_out.weight"].parameter == "lm_head.weight"
    assert not layout.tied


def test_config_is_not_shared_with_the_caller() -> None:
    config = {**T5GEMMA.tiny[0], "encoder": dict(T5GEMMA.tiny[0]["encoder"])}
    layout = bind(T5GEMMA, config, tiny_shapes(T5GEMMA, config))
    config["encoder"]["hidden_size"] = 1
    assert layout.config["encoder"]["hidden_size"] == 24


# Sizes


def test_divisible_sizes_are_those_that_the_class_accepts() -> None:
    """Wherever the rule refuses, the class does; what it suggests, the class accepts."""
    for blueprint in BLUEPRINTS:
        layout = tiny_layout(blueprint)
        for rule in blueprint.constraints:
            if not isinstance(rule, Divides) or blueprint is GPT_NEOX:
                continue
            for hidden in range(1, layout.sizes[rule.whole] + 1):
                problem = layout.size_problem({rule.whole: hidden})
                part = layout.sizes[rule.part]
                multiples = range(part, layout.sizes[rule.whole] + 1, part)
                assert (problem is None) is (hidden in multiples)
                if problem is None:
                    build(blueprint, cut_config(layout, {rule.whole: hidden}, {}))
                    continue
                near = [n for n in multiples if abs(n - hidden) < part]
                assert problem.message.endswith(f"{' or '.join(map(str, near))} would be right")
                with pytest.raises(Exception, match=r"(?i)multiple|divisible"):
                    build(blueprint, cut_config(layout, {rule.whole: hidden}, {}))


def test_sizes_without_a_multiple_have_no_suggestion() -> None:
    layout = replace(tiny_layout(LLAMA, 1), sizes={**tiny_layout(LLAMA, 1).sizes, "hidden": 3})
    problem = layout.size_problem({"hidden": 2})
    assert str(problem) == "hidden: the llama config class refuses 2 with 4 heads, not a multiple"


@pytest.mark.parametrize(("kv_head", "sizes"), [(2, {"head": 6}), (8, {"head": 6, "kv_head": 6})])
def test_a_number_of_heads_that_does_not_fit_is_blamed_itself(
    kv_head: int, sizes: Mapping[str, int]
) -> None:
    tiny = tiny_layout(LLAMA)
    layout = replace(tiny, sizes={**tiny.sizes, "hidden": 512, "head": 8, "kv_head": kv_head})
    assert str(layout.size_problem(sizes)) == (
        "head: the llama config class refuses 512 with 6 heads, not a multiple; "
        "4 or 8 heads would be right"
    )


@pytest.mark.parametrize(
    ("layout", "sizes", "message"),
    [
        (tiny_layout(LLAMA), {"hidden": 0}, "hidden: 0 is not between 1 and 24"),
        (tiny_layout(LLAMA), {"layer": 5}, "layer: 5 is not between 1 and 4"),
        (tiny_layout(LLAMA), {"head": 3, "kv_head": 1}, "3 heads on 1 key-value heads"),
        (tiny_layout(T5), {"encoder.head": 2}, "num_heads; cut them alike"),
        (tiny_layout(T5), {"decoder.ffn": 2}, "encoder.ffn 20, decoder.ffn 2: t5 has one field"),
        (tiny_layout(GPT_NEOX), {"head": 2}, "cut both together and keep 8 to a head"),
        (tiny_layout(GPT_NEOX), {"hidden": 16}, "hidden 16 with 4 heads: gpt_neox has no field"),
        (tiny_layout(PHI3, 1), {"hidden": 24}, "longrope factors"),
        (
            tiny_layout(T5GEMMA),
            {"decoder.hidden": 30},
            "decoder.hidden: the t5gemma .* 28 or 32 would",
        ),
    ],
)
def test_size_problem(layout: Layout, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        layout.check_sizes(sizes)


def test_hidden_and_heads_go_together_where_the_class_derives_one() -> None:
    assert tiny_layout(GPT_NEOX).size_problem({"hidden": 16, "head": 2}) is None
    assert tiny_layout(PHI3, 1).size_problem({"hidden": 16, "head": 2, "kv_head": 1}) is None


def test_a_quotient_that_is_no_whole_number_is_kept_too() -> None:
    """49 heads on hidden 5: 5 / 49 * 49 is not 5 in floating point."""
    neox = tiny_layout(GPT_NEOX)
    blueprint = replace(GPT_NEOX, constraints=())
    for hidden, heads in ((5, 49), (1, 49), (29, 25), (7, 3)):
        layout = replace(
            neox, blueprint=blueprint, sizes={**neox.sizes, "hidden": hidden, "head": heads}
        )
        assert layout.size_problem({}) is None


def test_axes_of_a_shared_field() -> None:
    layout = tiny_layout(T5)
    heads = ("encoder.head", "decoder.head", "decoder.cross_head")
    assert layout.axes_of_field("decoder.head") == heads
    assert layout.axes_of_field("hidden") == ("hidden",)


def test_folds_follow_the_head() -> None:
    assert [f.tensor for f in tiny_layout(GEMMA2, 0).folds()] == [
        "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight",
    ]  # fmt: skip
    assert [f.tensor for f in tiny_layout(GEMMA2, 1).folds()] == ["model.embed_tokens.weight"]
    assert [f.tensor for f in tiny_layout(T5, 1).folds()] == ["decoder.final_layer_norm.weight"]
    assert list(tiny_layout(T5, 0).folds()) == []


def test_one_parameter_under_two_names_is_refused() -> None:
    blueprint = next(b for b in BLUEPRINTS if b.model_type == "gpt_neox")
    shapes = tiny_shapes(blueprint, blueprint.tiny[0])
    shapes["embed_out.weight"] = shapes["lm_head.weight"]
    with pytest.raises(UserError, match=r"embed_out\.weight: lm_head\.weight holds the same"):
        bind(blueprint, blueprint.tiny[0], shapes)


def test_the_modules_of_patterns_in_all_layers_or_in_one() -> None:
    layout = tiny_layout(T5)
    patterns = ["encoder.block.{encoder.layer}", "decoder.block.{decoder.layer}.x", "shared"]
    assert layout.modules(patterns) == [
        *(f"encoder.block.{number}" for number in range(3)),
        *(f"decoder.block.{number}.x" for number in range(4)), "shared",
    ]  # fmt: skip
    assert layout.modules(patterns, ("decoder.layer", 2)) == ["decoder.block.2.x"]
