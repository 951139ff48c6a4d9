"""Qwen 3 with experts (Yang et al., 2025): the attention of Qwen 3, and Mixtral's experts.

Only models whose layers all have experts are described, as all published ones are.
"""

from dataclasses import replace

from regrow.architectures.mixtral import AT_LEAST_ACTIVE, with_experts
from regrow.architectures.qwen import QWEN3
from regrow.architectures.schema import ACTIVE_EXPERTS, EXPERT_WIDTH, Condition, Field, Quotient

_MLP = "model.layers.{layer}.mlp"
_EXPERT = f"{_MLP}.experts.{{expert}}"

_EXPERTS = Field("num_experts", default=128, instead="num_local_experts")
"""transformers 5 saves the number under the second name, and reads both."""

EXPERT_TENSORS = {
    f"{_MLP}.gate.weight": "expert, hidden",
    f"{_EXPERT}.gate_proj.weight": "expert_width, hidden",
    f"{_EXPERT}.up_proj.weight": "expert_width, hidden",
    f"{_EXPERT}.down_proj.weight": "hidden, expert_width",
}
ASSEMBLED_EXPERTS = {
    f"{_MLP}.experts.gate_up_proj": (f"{_EXPERT}.gate_proj.weight", f"{_EXPERT}.up_proj.weight"),
    f"{_MLP}.experts.down_proj": (f"{_EXPERT}.down_proj.weight",),
}

QWEN3_MOE = replace(
    QWEN3,
    model_type="qwen3_moe",
    architectures=("Qwen3MoeForCausalLM",),
    axes=with_experts(QWEN3.axes, _EXPERTS),
    fixed={
        "head_dim": Field("head_dim", default=Quotient("hidden", "head")),
        EXPERT_WIDTH: Field("moe_intermediate_size", default=768),
        ACTIVE_EXPERTS: Field("num_experts_per_tok", default=8),
    },
    tensors={
        **{name: dims for name, dims in QWEN3.tensors.items() if ".mlp." not in name},
        **EXPERT_TENSORS,
    },
    assembled=ASSEMBLED_EXPERTS,
    constraints=(AT_LEAST_ACTIVE,),
    lists={},
    covers=(
        Condition("mlp_only_layers", ([],), default=[]),
        Condition("decoder_sparse_step", (1,), default=1),
    ),
    tiny=tuple(
        dict(
            model_type="qwen3_moe", architectures=["Qwen3MoeForCausalLM"], vocab_size=61,
            hidden_size=24, moe_intermediate_size=16, intermediate_size=20, num_hidden_layers=3,
            num_attention_heads=6, num_key_value_heads=3, num_experts=5, num_experts_per_tok=2,
            norm_topk_prob=tied, head_dim=10, tie_word_embeddings=tied, bos_token_id=1,
            eos_token_id=2, **more,
        )
        for tied, more in ((False, dict(attention_bias=True)), (True, {}))
    ),
)  # fmt: skip
