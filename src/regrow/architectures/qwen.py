"""Qwen 2 and 2.5 (Yang et al., 2024), Qwen 3 (Yang et al., 2025): Llama's layers.

Qwen 2 has biases of queries, keys and values. Qwen 3 has none by default, and norms the queries and
keys of each head. Where a sliding window is used, layers from `max_window_layers` on have it.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regrow.architectures.llama import LLAMA
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.schema import Field, LayerList, Quotient, read_field

_ATTENTION = "model.layers.{layer}.self_attn"
_WINDOW = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}


def windowed(config: Mapping[str, Any], layer: int) -> str:
    """The attention of a layer: a sliding window only where the config says that one is used."""
    used = config.get("use_sliding_window") and config.get("sliding_window", 4_096) is not None
    first = read_field(config, "max_window_layers")
    return "sliding_attention" if used and layer >= (28 if first is None else first) else _ALL


_ALL = "full_attention"


def _tiny(model_type: str, architecture: str, **more: Any) -> dict[str, Any]:
    return dict(
        model_type=model_type, architectures=[architecture], vocab_size=61, hidden_size=24,
        intermediate_size=20, num_hidden_layers=4, num_attention_heads=6, num_key_value_heads=3,
        bos_token_id=1, eos_token_id=2, **more,
    )  # fmt: skip


QWEN2 = replace(
    MISTRAL,
    model_type="qwen2",
    architectures=("Qwen2ForCausalLM",),
    # Published files have no head_dim, but the class reads one where a file has it.
    fixed={"head_dim": Field("head_dim", default=Quotient("hidden", "head"))},
    tensors={
        **MISTRAL.tensors,
        f"{_ATTENTION}.q_proj.bias": "head*head_dim",
        f"{_ATTENTION}.k_proj.bias": "kv_head*head_dim",
        f"{_ATTENTION}.v_proj.bias": "kv_head*head_dim",
    },
    lists={"layer_types": LayerList("layer", windowed)},
    tiny=(
        _tiny("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=False, **_WINDOW),
        _tiny("qwen2", "Qwen2ForCausalLM", tie_word_embeddings=True),
    ),
)

QWEN3 = replace(
    MISTRAL,
    model_type="qwen3",
    architectures=("Qwen3ForCausalLM",),
    fixed={"head_dim": Field("head_dim", default=128)},
    tensors={
        **MISTRAL.tensors,
        **{n: dims for n, dims in LLAMA.tensors.items() if n.endswith("bias?") and "attn" in n},
        f"{_ATTENTION}.q_norm.weight": "head_dim",
        f"{_ATTENTION}.k_norm.weight": "head_dim",
    },
    lists={"layer_types": LayerList("layer", windowed)},
    tiny=(
        _tiny("qwen3", "Qwen3ForCausalLM", head_dim=10, tie_word_embeddings=False,
              attention_bias=True, **_WINDOW),
        _tiny("qwen3", "Qwen3ForCausalLM", head_dim=10, tie_word_embeddings=True),
    ),
)  # fmt: skip
