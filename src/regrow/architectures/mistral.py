"""Mistral (Jiang et al., 2023): Llama's layers without biases; a window in all or none.

A file with `layer_types`, as Ministral has it, says which layers have one.
"""

from dataclasses import replace

from regrow.architectures.llama import LLAMA
from regrow.architectures.schema import Axis, Field, LayerList

KV_HEAD = Axis("kv_head", Field("num_key_value_heads"), along="layer")
"""No default: where the field is absent the class takes one number, and where it is null another.
Published files name the number."""

MISTRAL = replace(
    LLAMA,
    model_type="mistral",
    architectures=("MistralForCausalLM",),
    axes=tuple(KV_HEAD if axis.name == "kv_head" else axis for axis in LLAMA.axes),
    tensors={name: dims for name, dims in LLAMA.tensors.items() if not name.endswith(".bias?")},
    constraints=(),
    lists={"layer_types": LayerList("layer", default=None)},
    ignored=(),
    tiny=tuple(
        dict(
            model_type="mistral", architectures=["MistralForCausalLM"], vocab_size=61,
            hidden_size=24, intermediate_size=20, num_hidden_layers=4, num_attention_heads=6,
            num_key_value_heads=3, sliding_window=window, tie_word_embeddings=tied, bos_token_id=1,
            eos_token_id=2, **more,
        )
        for window, tied, more in ((4, False, dict(head_dim=10)), (None, True, {}))
    ),
)  # fmt: skip
