"""Phi-3 (Abdin et al., 2024): query, key and value blocks in one matrix, gate and up in another.

With longrope the class compares the number of its factors with hidden / heads, even where head_dim
is written out. Then hidden and heads are cut in proportion or not at all.
"""

from regrow.architectures.schema import (
    Axis,
    Blueprint,
    Condition,
    Field,
    HeadTensors,
    KeepsQuotient,
    Quotient,
)

_LAYER = "model.layers.{layer}"
_SCALED = ("longrope", "su", "yarn")
_LONGROPE = "the longrope factors have one entry for each pair of hidden / heads channels"

PHI3 = Blueprint(
    model_type="phi3",
    architectures=("Phi3ForCausalLM",),
    axes=(
        Axis("vocab", Field("vocab_size")),
        Axis(
            "hidden",
            Field("hidden_size"),
            sites=(
                f"{_LAYER}.input_layernorm",
                f"{_LAYER}.post_attention_layernorm",
                "model.norm",
            ),
        ),
        Axis(
            "ffn",
            Field("intermediate_size"),
            along="layer",
            sites=(f"{_LAYER}.mlp.down_proj",),
        ),
        Axis("kv_head", Field("num_key_value_heads", default="head"), along="layer"),
        Axis(
            "head",
            Field("num_attention_heads"),
            along="layer",
            groups="kv_head",
            sites=(f"{_LAYER}.self_attn.o_proj",),
        ),
        Axis("layer", Field("num_hidden_layers"), sites=(_LAYER,)),
    ),
    fixed={"head_dim": Field("head_dim", default=Quotient("hidden", "head"))},
    tensors={
        "model.embed_tokens.weight": "vocab, hidden",
        f"{_LAYER}.input_layernorm.weight": "hidden",
        f"{_LAYER}.self_attn.qkv_proj.weight": (
            "head*head_dim + kv_head*head_dim + kv_head*head_dim, hidden"
        ),
        f"{_LAYER}.self_attn.o_proj.weight": "hidden, head*head_dim",
        f"{_LAYER}.post_attention_layernorm.weight": "hidden",
        f"{_LAYER}.mlp.gate_up_proj.weight": "ffn + ffn, hidden",
        f"{_LAYER}.mlp.down_proj.weight": "hidden, ffn",
        "model.norm.weight": "hidden",
        "lm_head.weight?": "vocab, hidden",
    },
    head=HeadTensors("lm_head.weight", "model.embed_tokens.weight"),
    embeddings=("model.embed_tokens",),
    constraints=tuple(
        KeepsQuotient("hidden", "head", _LONGROPE, when=Condition(field, _SCALED))
        for field in (
            "rope_scaling.type",
            "rope_scaling.rope_type",
            "rope_parameters.type",
            "rope_parameters.rope_type",
        )
    ),
    ignored=(r".*\.rotary_emb\.inv_freq",),
    tiny=(
        dict(
            model_type="phi3", architectures=["Phi3ForCausalLM"], vocab_size=61, hidden_size=36,
            intermediate_size=20, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=3, tie_word_embeddings=False, pad_token_id=0, bos_token_id=1,
            eos_token_id=2,
        ),
        dict(
            model_type="phi3", architectures=["Phi3ForCausalLM"], vocab_size=61, hidden_size=32,
            intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, tie_word_embeddings=True, sliding_window=3, pad_token_id=0,
            bos_token_id=1, eos_token_id=2, original_max_position_embeddings=32,
            max_position_embeddings=128,
            rope_scaling=dict(type="longrope", short_factor=[1.0, 1.1, 1.2, 1.3],
                              long_factor=[2.0, 2.5, 3.0, 4.0]),
        ),
    ),
)  # fmt: skip
