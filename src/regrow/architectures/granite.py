"""Granite 3 (Granite Team, IBM, 2024): Llama's layers with four multipliers.

The config holds four constants. `embedding_multiplier` multiplies the embedding, and
`residual_multiplier` the outputs of attention and ffn. `attention_multiplier` multiplies the
attention scores, in place of head_dim**-0.5. `logits_scaling` divides the logits. None of them
depends on a size, so a cut does not change them.
"""

from dataclasses import replace

from regrow.architectures.llama import LLAMA

GRANITE = replace(
    LLAMA,
    model_type="granite",
    architectures=("GraniteForCausalLM",),
    constraints=(),
    ignored=(),
    tiny=tuple(
        dict(
            model_type="granite", architectures=["GraniteForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=20, num_hidden_layers=4, num_attention_heads=6,
            embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.2,
            logits_scaling=2.5, attention_bias=bias, mlp_bias=bias, tie_word_embeddings=tied,
            bos_token_id=1, eos_token_id=2, **more,
        )
        for bias, tied, more in (
            (True, False, dict(num_key_value_heads=3, head_dim=10)),
            (False, True, {}),  # like published files: no key-value heads and no head_dim named
        )
    ),
)  # fmt: skip
