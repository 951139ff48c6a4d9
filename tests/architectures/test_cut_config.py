"""The config of a cut model: only what follows an axis changes."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Gemma2Config

from regrow.architectures import Blueprint, bind
from regrow.architectures.bart import BART
from regrow.architectures.binding import bind_sizes
from regrow.architectures.cut_config import cut_config
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gpt_neox import GPT_NEOX
from regrow.architectures.llama import LLAMA
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.t5 import T5
from regrow.architectures.t5gemma import T5GEMMA
from regrow.common.errors import UserError
from tests.cuts.random_cuts import TINY, accepted_sizes
from tests.tiny import tiny_layout, tiny_shapes

LAYOUTS = [tiny_layout(blueprint, number) for blueprint, number in TINY]


def _cut(
    blueprint: Blueprint,
    changes: Mapping[str, Any],
    sizes: Mapping[str, int],
    layers: Mapping[str, list[int]] | None = None,
    number: int = 0,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what changed or is new, by key; what was before) of the config with `changes`."""
    before = {**copy.deepcopy(dict(blueprint.tiny[number])), **changes}
    before = {key: value for key, value in before.items() if value is not ...}
    shapes = tiny_shapes(blueprint, blueprint.tiny[number])
    after = cut_config(bind(blueprint, before, shapes), sizes, layers or {})
    assert before.keys() <= after.keys()
    assert list(after)[: len(before)] == list(before)
    return {k: v for k, v in after.items() if k not in before or before[k] != v}, before


def test_only_the_field_of_the_axis_changes() -> None:
    odd = {"my_note": {"layers": [1, 2, 3, 4]}, "rope_theta": 1e6, "intermediate_sizes": [20] * 4}
    assert _cut(LLAMA, odd, {"ffn": 8})[0] == {"intermediate_size": 8}
    assert _cut(LLAMA, odd, {"vocab": 7, "layer": 2}, {"layer": [0, 3]})[0] == {
        "vocab_size": 7, "num_hidden_layers": 2,
    }  # fmt: skip
    assert _cut(LLAMA, odd, {})[0] == {}


def test_a_size_changes_under_all_names_that_the_class_reads() -> None:
    """BART reads the heads and layers of its encoder under names of other families, too."""
    tiny = BART.tiny[0]
    names = {"num_attention_heads": tiny["encoder_attention_heads"]}
    assert _cut(BART, names, {"encoder.head": 2})[0] == {
        "encoder_attention_heads": 2, "num_attention_heads": 2,
    }  # fmt: skip


def test_a_list_that_the_class_does_not_make_is_cut_where_the_file_has_it() -> None:
    full, sliding = "full_attention", "sliding_attention"
    kinds = {"layer_types": [full, sliding, sliding, full]}
    assert _cut(MISTRAL, kinds, {"layer": 3}, {"layer": [0, 2, 3]})[0] == {
        "num_hidden_layers": 3, "layer_types": [full, sliding, full],
    }  # fmt: skip
    assert _cut(MISTRAL, {}, {"layer": 2}, {"layer": [3, 1]})[0] == {"num_hidden_layers": 2}


def test_nothing_is_shared_with_the_layout() -> None:
    layout = tiny_layout(T5GEMMA)
    before = copy.deepcopy(dict(layout.config))
    cut_config(layout, {"encoder.ffn": 3}, {})["decoder"]["hidden_size"] = 1
    assert layout.config == before


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_result_says_the_sizes_that_were_asked_for(data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    sizes = data.draw(accepted_sizes(layout))
    layers = {a.name: range(sizes[a.name]) for a in layout.blueprint.axes if a.kind == "layer"}
    after = bind_sizes(layout.blueprint, cut_config(layout, sizes, layers))
    assert after == {**layout.sizes, **sizes}


def test_head_dim_is_written_out_where_it_would_be_derived_anew() -> None:
    assert _cut(LLAMA, {}, {"hidden": 12}, number=1)[0] == {"hidden_size": 12, "head_dim": 6}
    # With both halved the class still derives 6, and a later cut may not.
    both = {"hidden": 12, "head": 2, "kv_head": 2}
    changed, _ = _cut(LLAMA, {}, both, number=1)
    assert changed == {
            "hidden_size": 12, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 6,
        }  # fmt: skip


def test_head_dim_that_is_written_stays() -> None:
    assert _cut(LLAMA, {}, {"hidden": 12})[0] == {"hidden_size": 12}


def test_head_dim_is_not_written_where_the_class_has_no_field() -> None:
    assert _cut(GPT_NEOX, {}, {"hidden": 16, "head": 2})[0] == {
        "hidden_size": 16, "num_attention_heads": 2,
    }  # fmt: skip


@pytest.mark.parametrize("absent", [..., None])
def test_key_value_heads_left_to_their_default(absent: Any) -> None:
    """Llama derives them from the heads, Gemma 2 has a number of its own."""
    changes = {"num_key_value_heads": absent}
    sizes = {"head": 3, "kv_head": 3}
    changed, _ = _cut(LLAMA, changes, {"head": 3, "kv_head": 3, "hidden": 12}, number=1)
    assert changed["num_key_value_heads"] == 3
    assert _cut(LLAMA, changes, {"ffn": 3}, number=1)[0] == {"intermediate_size": 3}
    assert sizes["head"] == 3


def test_default_of_the_decoder_depth_is_written_when_only_the_encoder_is_cut() -> None:
    assert _cut(T5, {}, {"encoder.layer": 1}, number=1)[0] == {
        "num_layers": 1, "num_decoder_layers": 3, "decoder_layers": 3,
    }  # fmt: skip
    assert _cut(T5, {}, {"decoder.layer": 2}, number=1)[0] == {
        "num_decoder_layers": 2, "decoder_layers": 2,
    }  # fmt: skip


def test_a_mirror_stands_only_where_the_size_is_not_the_default() -> None:
    both = {"encoder.layer": 2, "decoder.layer": 2}
    alike = {"num_layers": 2, "num_decoder_layers": 2}
    assert _cut(T5, {}, both, number=1)[0] in (alike, {"num_layers": 2})
    # Else a cut in two steps, the first of which makes the stacks differ, would leave it behind.
    layout = tiny_layout(T5, 1)
    apart = cut_config(layout, {"decoder.layer": 2}, {})
    assert apart["decoder_layers"] == 2
    assert "decoder_layers" not in cut_config(layout, both, {}, apart)


def test_nested_fields() -> None:
    changed, before = _cut(
        T5GEMMA,
        {},
        {"encoder.hidden": 12, "encoder.layer": 2, "decoder.ffn": 5},
        {"encoder.layer": [1, 2], "decoder.layer": [0, 1, 2, 3]},
    )
    kinds = ["sliding_attention", "full_attention"]
    assert changed == {
        "encoder": {
            **before["encoder"], "hidden_size": 12, "num_hidden_layers": 2, "layer_types": kinds,
        },
        "decoder": {**before["decoder"], "intermediate_size": 5},
    }  # fmt: skip


def test_fields_that_repeat_a_size_follow_it() -> None:
    changed, before = _cut(T5GEMMA, {}, {"vocab": 9})
    assert changed["vocab_size"] == 9
    assert changed["encoder"] == {**before["encoder"], "vocab_size": 9}
    assert changed["decoder"] == {**before["decoder"], "vocab_size": 9}
    decoder = {**T5GEMMA.tiny[0]["decoder"], "cross_attention_hidden_size": 24}
    changed, _ = _cut(T5GEMMA, {"decoder": decoder}, {"encoder.hidden": 12})
    assert changed["decoder"] == {**decoder, "cross_attention_hidden_size": 12}


def test_fields_that_repeat_a_size_stay_where_it_stays() -> None:
    """Even where they disagree with it: nobody asked to change them."""
    encoder = {**T5GEMMA.tiny[0]["encoder"], "vocab_size": 1_000}
    assert "encoder" not in _cut(T5GEMMA, {"encoder": encoder}, {"decoder.ffn": 5})[0]


def test_lists_are_sliced_in_the_new_order() -> None:
    kinds = ["a", "b", "c", "d", "e"]
    changed, _ = _cut(GEMMA2, {"layer_types": kinds}, {"layer": 3}, {"layer": [4, 0, 2]})
    assert changed == {"num_hidden_layers": 3, "layer_types": ["e", "a", "c"]}


@pytest.mark.parametrize("absent", [..., None])
def test_lists_that_are_absent_are_written_as_the_class_made_them(absent: Any) -> None:
    """Published files of Gemma 2 have none; the class would make another one of fewer layers."""
    changed, before = _cut(GEMMA2, {"layer_types": absent}, {"layer": 3}, {"layer": [1, 3, 4]})
    made = Gemma2Config.from_dict(before).layer_types
    assert made is not None
    assert changed["layer_types"] == [made[i] for i in (1, 3, 4)] != made[:3]
    assert "layer_types" not in _cut(GEMMA2, {"layer_types": absent}, {"ffn": 5})[0]


def test_a_list_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"config.json: layer_types: 'all': a list is wanted"):
        _cut(GEMMA2, {"layer_types": "all"}, {"layer": 1}, {"layer": [4]})


def test_lists_of_another_length_are_refused() -> None:
    with pytest.raises(UserError, match=r"config.json: layer_types: 2 entries for 5 layers"):
        _cut(GEMMA2, {"layer_types": ["a", "b"]}, {"layer": 1}, {"layer": [4]})


def test_another_config_can_be_edited() -> None:
    layout = tiny_layout(LLAMA)
    edited = {**layout.config, "eos_token_id": 7}
    assert cut_config(layout, {"ffn": 8}, {}, edited) == {**edited, "intermediate_size": 8}
    assert edited["intermediate_size"] == 20
