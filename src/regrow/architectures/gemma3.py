"""The language model of Gemma 3 (Gemma Team, 2025): Gemma 2 with norms of queries and keys.

Five of six layers have a sliding window and another rotary base. The folds are those of Gemma 2.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from regrow.architectures.gemma2 import GEMMA2
from regrow.architectures.schema import Field, LayerList

_ATTENTION = "model.layers.{layer}.self_attn"
_VOCABULARY = Field("vocab_size", default=262_208)


def every_sixth(config: Mapping[str, Any], layer: int) -> str:
    """Full attention in every sixth layer; older files have a field with another period."""
    period = config.get("sliding_window_pattern", 6)
    return "sliding_attention" if (layer + 1) % period else "full_attention"


GEMMA3 = replace(
    GEMMA2,
    model_type="gemma3_text",
    architectures=("Gemma3ForCausalLM",),
    axes=tuple(replace(a, field=_VOCABULARY) if a.name == "vocab" else a for a in GEMMA2.axes),
    tensors={
        **GEMMA2.tensors,
        f"{_ATTENTION}.q_norm.weight": "head_dim",
        f"{_ATTENTION}.k_norm.weight": "head_dim",
    },
    lists={"layer_types": LayerList("layer", every_sixth)},
    tiny=tuple(
        dict(
            model_type="gemma3_text", architectures=["Gemma3ForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=20, num_hidden_layers=5, num_attention_heads=6,
            num_key_value_heads=3, head_dim=10, query_pre_attn_scalar=17, sliding_window=4,
            attention_bias=bias, tie_word_embeddings=tied, pad_token_id=0, bos_token_id=2,
            eos_token_id=1, sliding_window_pattern=2, **more,
        )
        for tied, bias, more in (
            (True, False, {}), (False, True, dict(final_logit_softcapping=30.0)),
        )
    ),
)  # fmt: skip
