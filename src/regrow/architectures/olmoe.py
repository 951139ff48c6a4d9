"""OLMoE (Muennighoff et al., 2024): experts as in Mixtral, and norms over all queries and keys.

The class has no field for the size of a head, so hidden and heads are cut in proportion.
"""

from dataclasses import replace

from regrow.architectures.llama import LLAMA
from regrow.architectures.mixtral import AT_LEAST_ACTIVE, with_experts
from regrow.architectures.qwen3_moe import ASSEMBLED_EXPERTS, EXPERT_TENSORS
from regrow.architectures.schema import ACTIVE_EXPERTS, EXPERT_WIDTH, Field, Quotient

_ATTENTION = "model.layers.{layer}.self_attn"
_NORMS = {"kv_head": (f"{_ATTENTION}.k_norm",), "head": (f"{_ATTENTION}.q_norm",)}

OLMOE = replace(
    LLAMA,
    model_type="olmoe",
    architectures=("OlmoeForCausalLM",),
    axes=with_experts(
        (replace(axis, inside_norms=_NORMS.get(axis.name, ())) for axis in LLAMA.axes),
        Field("num_experts", default=64),
    ),
    fixed={
        "head_dim": Field(None, default=Quotient("hidden", "head")),
        EXPERT_WIDTH: Field("intermediate_size", default=2_048),
        ACTIVE_EXPERTS: Field("num_experts_per_tok", default=8),
    },
    tensors={
        **{name: dims for name, dims in LLAMA.tensors.items() if ".mlp." not in name},
        f"{_ATTENTION}.q_norm.weight": "head*head_dim",
        f"{_ATTENTION}.k_norm.weight": "kv_head*head_dim",
        **EXPERT_TENSORS,
    },
    assembled=ASSEMBLED_EXPERTS,
    constraints=(AT_LEAST_ACTIVE,),
    tiny=tuple(
        dict(
            model_type="olmoe", architectures=["OlmoeForCausalLM"], vocab_size=61,
            hidden_size=hidden, intermediate_size=16, num_hidden_layers=3,
            num_attention_heads=heads, num_experts=5, num_experts_per_tok=2,
            tie_word_embeddings=tied, pad_token_id=0, eos_token_id=2, **more,
        )
        for hidden, heads, tied, more in (
            (24, 6, False, dict(num_key_value_heads=3, attention_bias=True, clip_qkv=1.5)),
            (32, 4, True, dict(norm_topk_prob=True)),
        )
    ),
)  # fmt: skip
