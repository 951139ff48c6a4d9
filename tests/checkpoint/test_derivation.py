"""Blueprints derived from classes: they agree with written ones, and hold only what was proved."""

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from regrow.architectures import Blueprint, bind
from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.gemma3 import GEMMA3
from regrow.architectures.granite import GRANITE
from regrow.architectures.llama import LLAMA
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.olmo2 import OLMO2
from regrow.architectures.phi3 import PHI3
from regrow.architectures.qwen import QWEN2, QWEN3
from regrow.checkpoint import derivation
from regrow.checkpoint.class_query import in_subprocess
from regrow.checkpoint.derivation import derive
from regrow.checkpoint.derived_blueprint import ask, blueprint_of_class
from regrow.common.errors import UserError
from tests.tiny import tiny_shapes

ALL = ["vocab", "hidden", "ffn", "kv_head", "head", "layer"]


@pytest.mark.parametrize(
    ("written", "number"),
    [
        (LLAMA, 0),
        (MISTRAL, 0),
        (GRANITE, 1),
        (QWEN2, 0),
        (QWEN3, 0),
        (GEMMA2, 0),
        (GEMMA3, 1),
        (OLMO2, 0),
        (PHI3, 0),
    ],
    ids=lambda each: getattr(each, "model_type", each),
)
def test_it_agrees_with_a_written_blueprint(written: Blueprint, number: int) -> None:
    tiny = written.tiny[number]
    shapes = tiny_shapes(written, tiny)
    derived = blueprint_of_class(tiny, shapes)
    assert derived.derived
    mine, theirs = bind(derived, tiny, shapes), bind(written, tiny, shapes)
    assert derived.axis_names == written.axis_names
    assert derived.pre_norm is written.pre_norm
    assert {fold.tensor: fold for fold in mine.folds()} == {
        fold.tensor: fold for fold in theirs.folds()
    }
    for axis in written.axes:
        found = derived.axis(axis.name)
        assert (found.along, found.groups) == (axis.along, axis.groups)
        assert set(found.sites) == set(axis.sites)
        assert set(found.inside_norms) == set(axis.inside_norms)
    sizes = {name: mine.sizes[name] for name in theirs.sizes}
    assert sizes == theirs.sizes
    for name, tensor in theirs.tensors.items():
        pairs = zip(mine.tensors[name].dims.dimensions, tensor.dims.dimensions, strict=True)
        for one, other in pairs:  # numbers may stand where the other has a fixed size
            for kind in written.axis_names:
                assert one.owners(mine.sizes, kind).tolist() == other.owners(sizes, kind).tolist()


def test_what_cannot_be_proved_is_given_up() -> None:
    """OLMo's norms have no weights, so nothing says that they run over hidden."""
    tiny = config("olmo", "OlmoForCausalLM", {})
    shapes = tiny_shapes(replace(LLAMA, architectures=("OlmoForCausalLM",)), tiny)
    derived = blueprint_of_class(tiny, shapes)
    assert list(derived.axis_names) == [axis for axis in ALL if axis != "hidden"]
    assert derived.fixed["hidden"].path == "hidden_size"
    assert derived.pre_norm


DERIVED: dict[str, tuple[str, dict[str, Any], bool]] = {
    "smollm3": ("SmolLM3ForCausalLM", {"no_rope_layer_interval": 3}, True),
    "gemma": ("GemmaForCausalLM", {}, True),
    "cohere2": ("Cohere2ForCausalLM", {}, True),
    "glm4": ("Glm4ForCausalLM", {}, False),
    "exaone4": ("Exaone4ForCausalLM", {"sliding_window": 4096}, False),
    "olmo3": ("Olmo3ForCausalLM", {}, False),
    "starcoder2": ("Starcoder2ForCausalLM", {"use_bias": True}, True),
}


def config(model_type: str, architecture: str, flags: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "model_type": model_type, "architectures": [architecture], "vocab_size": 101,
        "hidden_size": 64, "intermediate_size": 56, "num_hidden_layers": 9,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "pad_token_id": 0,
        "bos_token_id": 1, "eos_token_id": [2, 3, 4, 5, 6, 7, 8, 9, 10], **flags,
    }  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_families_without_a_blueprint_get_one(name: str) -> None:
    architecture, flags, pre_norm = DERIVED[name]
    found = derive(config(name, architecture, flags), architecture)
    assert found["derived"]["axes"] == ALL
    assert found["derived"]["pre_norm"] is pre_norm
    assert found["values"]["ffn"] == 56
    assert all(len(entries) == 9 for entries in found["lists"].values())
    assert "eos_token_id" not in found["lists"]


def test_lists_that_are_longer_than_the_layers_are_not_cut() -> None:
    """The class reads them by the number of the layer, so a dropped layer would change others."""
    flags = {"no_rope_layers": [1, 1, 1, 0] * 3}
    found = derive(config("smollm3", "SmolLM3ForCausalLM", flags), "SmolLM3ForCausalLM")
    assert found["refusal"].startswith("drop layer 0: ")


def test_a_model_of_one_layer_is_proved_with_two() -> None:
    one = config("cohere", "CohereForCausalLM", {"num_hidden_layers": 1})
    assert derive(one, "CohereForCausalLM")["derived"]["axes"] == ALL


def test_what_is_wrong_with_regrow_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AttributeError("a mistake")

    monkeypatch.setattr(derivation, "check_claims", broken)
    flags = {"rms_norm_eps": 1e-4}  # another config than those of other tests
    with pytest.raises(AttributeError, match="a mistake"):
        derive(config("smollm3", "SmolLM3ForCausalLM", flags), "SmolLM3ForCausalLM")


REFUSED = {
    "gpt2": ("GPT2LMHeadModel", "GPT2LMHeadModel has no field for the size of a head"),
    "t5": ("T5ForConditionalGeneration", "is no decoder that predicts the next token"),
    "bart": ("BartForCausalLM", "more than a decoder"),
    "gpt_oss": ("GptOssForCausalLM", "experts.gate_up_proj: neither a matrix nor a vector"),
    "mamba": ("MambaForCausalLM", "its config has no num_attention_heads"),
    "glm4_moe": ("Glm4MoeForCausalLM", "mlp.gate_proj.weight: not all layers have this tensor"),
    "llama": ("LlamaForCausalLM", "LlamaForCausalLM refuses a small config: 'no such kind'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_others_are_refused_in_one_line(name: str) -> None:
    architecture, message = REFUSED[name]
    flags = {"rope_scaling": {"rope_type": "no such kind"}} if name == "llama" else {}
    whole = {"model_type": name, "architectures": [architecture], **flags}
    refusal = derive(whole, architecture)["refusal"]
    assert message in refusal
    assert "\n" not in refusal


def test_names_that_the_class_does_not_have_leave_the_vocabulary() -> None:
    tiny = config("smollm3", "SmolLM3ForCausalLM", {})
    shapes = tiny_shapes(replace(LLAMA, architectures=("SmolLM3ForCausalLM",)), tiny)
    assert blueprint_of_class(tiny, shapes).derived
    old = {**shapes, "model.layers.0.self_attn.rotary_emb.inv_freq": (8,)}
    found = bind(blueprint_of_class(tiny, old), tiny, old)
    assert found.ignored == ("model.layers.0.self_attn.rotary_emb.inv_freq",)
    more = {**shapes, "model.layers.0.adapter.weight": (4, 64)}
    only = blueprint_of_class(tiny, more)
    assert only.vocabulary_only
    assert only.reason == (
        "model.layers.0.adapter.weight: SmolLM3ForCausalLM has no tensor of this name"
    )


def test_a_head_that_is_missing_is_an_error() -> None:
    tiny = config("smollm3", "SmolLM3ForCausalLM", {"tie_word_embeddings": False})
    shapes = tiny_shapes(replace(LLAMA, architectures=("SmolLM3ForCausalLM",)), tiny)
    del shapes["lm_head.weight"]
    with pytest.raises(UserError, match=r"lm_head\.weight: missing, though config.json says that"):
        bind(blueprint_of_class(tiny, shapes), tiny, shapes)


def test_a_process_of_its_own_finds_the_same() -> None:
    """With as many draws as for users; the tests ask in their own process, with one draw."""
    whole = config("smollm3", "SmolLM3ForCausalLM", {})
    asked: dict[str, Any] = {"config": whole, "architecture": "SmolLM3ForCausalLM"}
    before = torch.random.get_rng_state()
    found = in_subprocess(ask, **asked)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert found == json.loads(json.dumps(ask(**asked)))


def test_the_module_that_asks_is_light() -> None:
    code = "import sys, regrow.checkpoint.bind; " \
           "print(sorted({'torch', 'transformers'} & sys.modules.keys()))"  # fmt: skip
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
