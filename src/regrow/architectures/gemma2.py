"""Gemma 2 (Gemma Team, 2024): norms before and after each part, scaled embedding, soft-caps.

Attention divides by sqrt(query_pre_attn_scalar), a field that no cut changes. The network
multiplies the embedding by sqrt(hidden), so a cut of hidden folds the ratio into the embedding. A
tied head uses the folded embedding too, so the inverse goes into the final norm, whose weight is
stored as its difference from 1.
"""

from collections.abc import Mapping
from typing import Any

from regrow.architectures.schema import (
    Axis,
    Blueprint,
    Divides,
    Field,
    Fold,
    HeadTensors,
    LayerList,
)

_LAYER = "model.layers.{layer}"
_NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def alternating(_config: Mapping[str, Any], layer: int) -> str:
    """Full attention in every second layer, a sliding window in the others."""
    return "full_attention" if layer % 2 else "sliding_attention"


GEMMA2 = Blueprint(
    model_type="gemma2",
    pre_norm=False,
    architectures=("Gemma2ForCausalLM",),
    axes=(
        Axis("vocab", Field("vocab_size", default=256_000)),
        Axis(
            "hidden",
            Field("hidden_size", default=2_304),
            sites=(*(f"{_LAYER}.{norm}" for norm in _NORMS), "model.norm"),
        ),
        Axis(
            "ffn",
            Field("intermediate_size", default=9_216),
            along="layer",
            sites=(f"{_LAYER}.mlp.down_proj",),
        ),
        Axis("kv_head", Field("num_key_value_heads", default=4), along="layer"),
        Axis(
            "head",
            Field("num_attention_heads", default=8),
            along="layer",
            groups="kv_head",
            sites=(f"{_LAYER}.self_attn.o_proj",),
        ),
        Axis("layer", Field("num_hidden_layers", default=26), sites=(_LAYER,)),
    ),
    fixed={"head_dim": Field("head_dim", default=256)},
    tensors={
        "model.embed_tokens.weight": "vocab, hidden",
        **{f"{_LAYER}.{norm}.weight": "hidden" for norm in _NORMS},
        f"{_LAYER}.self_attn.q_proj.weight": "head*head_dim, hidden",
        f"{_LAYER}.self_attn.q_proj.bias?": "head*head_dim",
        f"{_LAYER}.self_attn.k_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.k_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.v_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.v_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.o_proj.weight": "hidden, head*head_dim",
        f"{_LAYER}.self_attn.o_proj.bias?": "hidden",
        f"{_LAYER}.mlp.gate_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.up_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.down_proj.weight": "hidden, ffn",
        "model.norm.weight": "hidden",
        "lm_head.weight?": "vocab, hidden",
    },
    head=HeadTensors("lm_head.weight", "model.embed_tokens.weight"),
    embeddings=("model.embed_tokens",),
    lists={"layer_types": LayerList("layer", alternating)},
    constraints=(Divides("head", "hidden"),),
    folds=(
        Fold("model.embed_tokens.weight", "hidden", power=-0.5),
        Fold("model.norm.weight", "hidden", power=0.5, offset=1.0, tied=True),
        Fold("lm_head.weight", "hidden", power=-0.5, tied=True),
    ),
    tiny=tuple(
        dict(
            model_type="gemma2", architectures=["Gemma2ForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=20, num_hidden_layers=5, num_attention_heads=6,
            num_key_value_heads=3, head_dim=10, query_pre_attn_scalar=17, sliding_window=4,
            final_logit_softcapping=30.0, attn_logit_softcapping=50.0, attention_bias=bias,
            tie_word_embeddings=tied, pad_token_id=0, bos_token_id=2, eos_token_id=1,
            **more,
        )
        for tied, bias, more in (
            (True, False, dict(layer_types=["sliding_attention", "full_attention",
                                            "sliding_attention", "sliding_attention",
                                            "full_attention"])),
            (False, True, {}),  # like published files: the class makes the list
        )
    ),
)  # fmt: skip
