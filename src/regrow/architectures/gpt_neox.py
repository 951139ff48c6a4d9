"""GPT-NeoX (Black et al., 2022) and Pythia: fused attention, parallel residual, LayerNorm."""

from regrow.architectures.schema import Axis, Blueprint, Divides, Field, HeadTensors, Quotient

_LAYER = "gpt_neox.layers.{layer}"

GPT_NEOX = Blueprint(
    model_type="gpt_neox",
    architectures=("GPTNeoXForCausalLM",),
    axes=(
        Axis("vocab", Field("vocab_size")),
        Axis(
            "hidden",
            Field("hidden_size"),
            sites=(
                f"{_LAYER}.input_layernorm",
                f"{_LAYER}.post_attention_layernorm",
                "gpt_neox.final_layer_norm",
            ),
        ),
        Axis(
            "ffn",
            Field("intermediate_size"),
            along="layer",
            sites=(f"{_LAYER}.mlp.dense_4h_to_h",),
        ),
        Axis(
            "head",
            Field("num_attention_heads"),
            along="layer",
            sites=(f"{_LAYER}.attention.dense",),
        ),
        Axis("layer", Field("num_hidden_layers"), sites=(_LAYER,)),
    ),
    fixed={"head_dim": Field(None, default=Quotient("hidden", "head"))},
    tensors={
        "gpt_neox.embed_in.weight": "vocab, hidden",
        f"{_LAYER}.input_layernorm.weight": "hidden",
        f"{_LAYER}.input_layernorm.bias": "hidden",
        f"{_LAYER}.post_attention_layernorm.weight": "hidden",
        f"{_LAYER}.post_attention_layernorm.bias": "hidden",
        f"{_LAYER}.attention.query_key_value.weight": "head*3*head_dim, hidden",
        f"{_LAYER}.attention.query_key_value.bias?": "head*3*head_dim",
        f"{_LAYER}.attention.dense.weight": "hidden, head*head_dim",
        f"{_LAYER}.attention.dense.bias?": "hidden",
        f"{_LAYER}.mlp.dense_h_to_4h.weight": "ffn, hidden",
        f"{_LAYER}.mlp.dense_h_to_4h.bias": "ffn",
        f"{_LAYER}.mlp.dense_4h_to_h.weight": "hidden, ffn",
        f"{_LAYER}.mlp.dense_4h_to_h.bias": "hidden",
        "gpt_neox.final_layer_norm.weight": "hidden",
        "gpt_neox.final_layer_norm.bias": "hidden",
        "lm_head.weight?": "vocab, hidden",
    },
    renames={"embed_out.weight": "lm_head.weight"},
    head=HeadTensors("lm_head.weight", "gpt_neox.embed_in.weight"),
    embeddings=("gpt_neox.embed_in",),
    constraints=(Divides("head", "hidden"),),
    ignored=(r".*\.attention\.(masked_)?bias", r".*\.rotary_emb\.inv_freq"),
    tiny=tuple(
        dict(
            model_type="gpt_neox", architectures=["GPTNeoXForCausalLM"], vocab_size=61,
            hidden_size=32, intermediate_size=20, num_hidden_layers=3, num_attention_heads=4,
            rotary_pct=0.5, use_parallel_residual=parallel, tie_word_embeddings=tied,
            attention_bias=bias, bos_token_id=0, eos_token_id=0,
        )
        for parallel, tied, bias in ((True, False, True), (False, True, False))
    ),
)  # fmt: skip
