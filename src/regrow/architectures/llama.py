"""Llama (Touvron et al., 2023): pre-norm decoder, grouped-query attention, gated ffn."""

from regrow.architectures.schema import Axis, Blueprint, Divides, Field, HeadTensors, Quotient

_LAYER = "model.layers.{layer}"

LLAMA = Blueprint(
    model_type="llama",
    architectures=("LlamaForCausalLM",),
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
        f"{_LAYER}.self_attn.q_proj.weight": "head*head_dim, hidden",
        f"{_LAYER}.self_attn.q_proj.bias?": "head*head_dim",
        f"{_LAYER}.self_attn.k_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.k_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.v_proj.weight": "kv_head*head_dim, hidden",
        f"{_LAYER}.self_attn.v_proj.bias?": "kv_head*head_dim",
        f"{_LAYER}.self_attn.o_proj.weight": "hidden, head*head_dim",
        f"{_LAYER}.self_attn.o_proj.bias?": "hidden",
        f"{_LAYER}.post_attention_layernorm.weight": "hidden",
        f"{_LAYER}.mlp.gate_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.gate_proj.bias?": "ffn",
        f"{_LAYER}.mlp.up_proj.weight": "ffn, hidden",
        f"{_LAYER}.mlp.up_proj.bias?": "ffn",
        f"{_LAYER}.mlp.down_proj.weight": "hidden, ffn",
        f"{_LAYER}.mlp.down_proj.bias?": "hidden",
        "model.norm.weight": "hidden",
        "lm_head.weight?": "vocab, hidden",
    },
    head=HeadTensors("lm_head.weight", "model.embed_tokens.weight"),
    embeddings=("model.embed_tokens",),
    constraints=(Divides("head", "hidden"),),
    ignored=(r".*\.rotary_emb\.inv_freq",),
    tiny=(
        dict(
            model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=61, hidden_size=24,
            intermediate_size=20, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=3, head_dim=10, tie_word_embeddings=False, attention_bias=True,
            mlp_bias=True, bos_token_id=1, eos_token_id=2,
        ),
        dict(
            model_type="llama", architectures=["LlamaForCausalLM"], vocab_size=61, hidden_size=24,
            intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
            tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        ),
    ),
)  # fmt: skip
