"""OLMo 2 (OLMo Team, 2024): a norm after each part, query and key norms over all heads at once."""

from regrow.architectures.schema import Axis, Blueprint, Field, HeadTensors, Quotient

_LAYER = "model.layers.{layer}"

OLMO2 = Blueprint(
    model_type="olmo2",
    pre_norm=False,
    architectures=("Olmo2ForCausalLM",),
    axes=(
        Axis("vocab", Field("vocab_size")),
        Axis(
            "hidden",
            Field("hidden_size"),
            sites=(
                f"{_LAYER}.post_attention_layernorm",
                f"{_LAYER}.post_feedforward_layernorm",
                "model.norm",
            ),
        ),
        Axis(
            "ffn",
            Field("intermediate_size"),
            along="layer",
            sites=(f"{_LAYER}.mlp.down_proj",),
        ),
        Axis(
            "kv_head",
            Field("num_key_value_heads", default="head"),
            along="layer",
            inside_norms=(f"{_LAYER}.self_attn.k_norm",),
        ),
        Axis(
            "head",
            Field("num_attention_heads"),
            along="layer",
            groups="kv_head",
            sites=(f"{_LAYER}.self_attn.o_proj",),
            inside_norms=(f"{_LAYER}.self_attn.q_norm",),
        ),
        Axis("layer", Field("num_hidden_layers"), sites=(_LAYER,)),
    ),
    fixed={"head_dim": Field("head_dim", default=Quotient("hidden", "head"))},
    tensors={
        "model.embed_tokens.weight": "vocab, hidden",
        f"{_LAYER}.self_attn.q_proj.weight": "head*head_dim, hidden",
        f"{_LAYER}.self_attn.q_proj.bias?": "head*head_dim",
        f"{_LAYER}.self_attn.k_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.k_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.v_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.v_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.q_norm.weight": "head*head_dim",
        f"{_LAYER}.self_attn.k_norm.weight": "kv_head*head_dim",
        f"{_LAYER}.self_attn.o_proj.weight": "hidden, head*head_dim",
        f"{_LAYER}.self_attn.o_proj.bias?": "hidden",
        f"{_LAYER}.post_attention_layernorm.weight": "hidden",
        f"{_LAYER}.mlp.gate_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.up_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.down_proj.weight": "hidden, ffn",
        f"{_LAYER}.post_feedforward_layernorm.weight": "hidden",
        "model.norm.weight": "hidden",
        "lm_head.weight?": "vocab, hidden",
    },
    head=HeadTensors("lm_head.weight", "model.embed_tokens.weight"),
    embeddings=("model.embed_tokens",),
    ignored=(r".*\.rotary_emb\.inv_freq",),
    tiny=(
        dict(
            model_type="olmo2", architectures=["Olmo2ForCausalLM"], vocab_size=61,
            hidden_size=36, intermediate_size=20, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=3, tie_word_embeddings=False, attention_bias=False,
            pad_token_id=0, eos_token_id=1,
        ),
        dict(
            model_type="olmo2", architectures=["Olmo2ForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
            tie_word_embeddings=True, attention_bias=True, pad_token_id=0, eos_token_id=1,
        ),
    ),
)  # fmt: skip
