"""Mixtral (Jiang et al., 2024): Mistral with experts in place of the ffn.

A router gives each token to `num_experts_per_tok` of the experts, and adds what they write by
weights. An axis of experts has a choice for each layer. The width of the experts is not cut: each
expert would need a choice of its own.
"""

from collections.abc import Iterable
from dataclasses import replace

from regrow.architectures.llama import LLAMA
from regrow.architectures.mistral import MISTRAL
from regrow.architectures.schema import ACTIVE_EXPERTS, EXPERT_WIDTH, AtLeast, Axis, Field

_LAYER = "model.layers.{layer}"
_FILE, _CLASS = f"{_LAYER}.block_sparse_moe", f"{_LAYER}.mlp"
_EXPERT = f"{_FILE}.experts.{{expert}}"

AT_LEAST_ACTIVE = AtLeast("expert", ACTIVE_EXPERTS)


def with_experts(axes: Iterable[Axis], experts: Field) -> tuple[Axis, ...]:
    """The axes of a dense model, with one of experts in place of the ffn.

    Grouped matrix products, by which transformers computes experts, take rows of a multiple of 16
    bytes. So hidden stays a multiple of 8, which suits all dtypes.
    """
    changed = {"ffn": Axis("expert", experts, along="layer", sites=(_CLASS,))}
    return tuple(
        replace(axis, multiple=8) if axis.name == "hidden" else changed.get(axis.name, axis)
        for axis in axes
    )


MIXTRAL = replace(
    MISTRAL,
    model_type="mixtral",
    architectures=("MixtralForCausalLM",),
    axes=with_experts(MISTRAL.axes, Field("num_local_experts", default=8)),
    fixed={
        **MISTRAL.fixed,
        EXPERT_WIDTH: Field("intermediate_size"),
        ACTIVE_EXPERTS: Field("num_experts_per_tok", default=2),
    },
    tensors={
        **{name: dims for name, dims in MISTRAL.tensors.items() if ".mlp." not in name},
        f"{_FILE}.gate.weight": "expert, hidden",
        f"{_EXPERT}.w1.weight": "expert_width, hidden",
        f"{_EXPERT}.w3.weight": "expert_width, hidden",
        f"{_EXPERT}.w2.weight": "hidden, expert_width",
    },
    assembled={
        f"{_CLASS}.gate.weight": (f"{_FILE}.gate.weight",),
        f"{_CLASS}.experts.gate_up_proj": (f"{_EXPERT}.w1.weight", f"{_EXPERT}.w3.weight"),
        f"{_CLASS}.experts.down_proj": (f"{_EXPERT}.w2.weight",),
    },
    constraints=(AT_LEAST_ACTIVE,),
    lists={},
    ignored=LLAMA.ignored,
    tiny=tuple(
        dict(
            model_type="mixtral", architectures=["MixtralForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=16, num_hidden_layers=3, num_attention_heads=6,
            num_key_value_heads=3, num_local_experts=5, num_experts_per_tok=2,
            tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, **more,
        )
        for tied, more in ((False, dict(head_dim=10)), (True, dict(sliding_window=4)))
    ),
)  # fmt: skip
