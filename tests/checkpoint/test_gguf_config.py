"""What transformers' loader of GGUF files drops stands in the config all the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from regrow.checkpoint.gguf_config import repaired_config
from regrow.common.errors import UserError

FILE = Path("tiny.gguf")
SIZES = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0,
}  # fmt: skip


def repaired(
    model_type: str,
    metadata: dict[str, Any],
    scaling: dict[str, Any] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """The config of a model of this type and these values, with the metadata of a file."""
    architecture = {"gemma3_text": "gemma3"}.get(model_type, model_type)
    found = {f"{architecture}.{key}": value for key, value in metadata.items()}
    config = CONFIG_MAPPING[model_type](**{**SIZES, **values}).to_dict()
    return repaired_config(FILE, config, {"general.architecture": architecture, **found}, scaling)


@pytest.mark.parametrize("model_type", ["starcoder2", "stablelm", "qwen2", "nemotron", "falcon"])
def test_the_base_of_the_rotary_frequencies_is_that_of_the_file(model_type: str) -> None:
    stored = 999999.4375  # 999999.44 as float32
    config = repaired(model_type, {"rope.freq_base": stored})
    assert config["rope_parameters"]["rope_theta"] == 999999.44


def test_without_a_base_that_of_the_class_stays() -> None:
    assert repaired("starcoder2", {})["rope_parameters"]["rope_theta"] == 10_000.0


@pytest.mark.parametrize(("head", "count"), [(8, 4), (80, 20), (44, 30), (52, 30)])
@pytest.mark.parametrize("model_type", ["stablelm", "nemotron", "phi3"])
def test_as_much_of_a_head_is_rotated_as_the_file_says(
    model_type: str, head: int, count: int
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 4 * head, "num_attention_heads": 4, "head_dim": head}
    config = repaired(model_type, {"rope.dimension_count": count}, **sizes)
    assert int(head * config["rope_parameters"]["partial_rotary_factor"]) == count


def test_a_repaired_config_gives_the_logits_of_the_original() -> None:
    parameters = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5}
    config = CONFIG_MAPPING["stablelm"](**SIZES, rope_parameters=parameters)
    model = AutoModelForCausalLM.from_config(config).eval()
    values = repaired("stablelm", {"rope.freq_base": 1e6, "rope.dimension_count": 4})
    again = AutoModelForCausalLM.from_config(CONFIG_MAPPING["stablelm"](**values)).eval()
    again.load_state_dict(model.state_dict())
    ids = torch.arange(3, 60)[None]
    assert torch.equal(model(ids).logits, again(ids).logits)


@pytest.mark.parametrize(
    ("model_type", "count", "problem"),
    [
        ("starcoder2", 4, "is 4 of 8, but this architecture rotates whole heads"),
        ("stablelm", 0, "is 0; an even number up to 8 is wanted"),
        ("stablelm", 3, "is 3; an even"),
        ("stablelm", 10, "is 10; an even"),
    ],
)
def test_a_rotation_that_transformers_does_not_have_is_refused(
    model_type: str, count: int, problem: str
) -> None:
    with pytest.raises(UserError, match=f"tiny.gguf: {model_type}.rope.dimension_count {problem}"):
        repaired(model_type, {"rope.dimension_count": count})


def test_scaling_of_gemma_3_is_that_of_its_global_attention() -> None:
    """Its config has rotary parameters for each kind of attention."""
    scaling = {"rope_type": "linear", "factor": 8.0}
    config = repaired("gemma3_text", {"rope.freq_base": 2e6}, scaling, head_dim=256)
    assert config["rope_parameters"] == {
        "full_attention": {"rope_type": "linear", "rope_theta": 2e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    }


@pytest.mark.parametrize(
    ("model_type", "layers", "hidden", "head", "scale"),
    [
        ("gemma2", 26, 2304, 256, 256),
        ("gemma2", 42, 3584, 256, 256),
        ("gemma2", 46, 4608, 128, 144),
        ("gemma3_text", 34, 2560, 256, 256),
        ("gemma3_text", 62, 5376, 128, 168),
    ],
)
def test_queries_of_gemma_are_scaled_as_in_the_original(
    model_type: str, layers: int, hidden: int, head: int, scale: int
) -> None:
    sizes: dict[str, Any] = {"num_hidden_layers": layers, "hidden_size": hidden, "head_dim": head}
    config = repaired(model_type, {}, **sizes, num_attention_heads=32)
    assert config["query_pre_attn_scalar"] == scale


def test_a_gemma_of_unknown_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"tiny\.gguf: 40 layers with heads of 128 are no model"):
        repaired("gemma2", {}, num_hidden_layers=40, head_dim=128)


def test_a_gated_t5_has_the_activation_of_version_1_1() -> None:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    loaded = {**CONFIG_MAPPING["t5"](**sizes).to_dict(), "is_gated_act": True}
    config = repaired_config(FILE, loaded, {"general.architecture": "t5"}, None)
    again = CONFIG_MAPPING["t5"](**config)
    assert (again.is_gated_act, again.dense_act_fn) == (True, "gelu_new")


@pytest.mark.parametrize(
    ("model_type", "name", "value", "key", "expected"),
    [
        ("phi3", "attention.sliding_window", 2047, "sliding_window", 2047),
        ("phi3", "attention.sliding_window", 0, "sliding_window", None),
        ("gemma2", "attn_logit_softcapping", 40.0, "attn_logit_softcapping", 40.0),
        ("gemma2", "final_logit_softcapping", 20.0, "final_logit_softcapping", 20.0),
        ("nemotron", "attention.layer_norm_epsilon", 1e-6, "norm_eps", 1e-6),
        ("falcon", "attention.layer_norm_epsilon", 1e-6, "layer_norm_epsilon", 1e-6),
    ],
)
def test_other_values_of_the_file_are_kept(
    model_type: str, name: str, value: float, key: str, expected: float | None
) -> None:
    sizes: dict[str, Any] = {"head_dim": 256} if model_type == "gemma2" else {}
    assert repaired(model_type, {name: value}, **sizes)[key] == expected
